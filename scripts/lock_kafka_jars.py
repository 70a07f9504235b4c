"""Write app/adapters/stack/kafka_jars.lock: each jar of one version of Kafka and of its logging, with size and SHA-256.

    python scripts/lock_kafka_jars.py 4.1.2 2.25.4 > app/adapters/stack/kafka_jars.lock

Kafka and log4j are resolved apart: taken together, log4j's own dependency management pulls kafka-clients back to 3.x.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext

HEADER = (
    "# The jars of the embedded Kafka: group:artifact:version, bytes, SHA-256. Written by scripts/lock_kafka_jars.py."
)


def main(kafka: str, log4j: str) -> None:
    """Print the lock."""
    chosen = {}
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=30)
        # The second one's versions win: the log4j asked for replaces the one that Kafka names.
        for root in (f"org.apache.kafka:kafka_2.13:{kafka}", f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}"):
            inputs, transitive = context.resolver.resolve([context.create_dependency(root)])
            for dependency in [*inputs, *(one for one in transitive if one.scope in {"compile", "runtime"})]:
                chosen[dependency.groupId, dependency.artifactId] = dependency.artifact
        print(HEADER)
        for (group, name), artifact in sorted(chosen.items()):
            data = artifact.resolve().read_bytes()
            print(f"{group}:{name}:{artifact.version} {len(data)} {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
