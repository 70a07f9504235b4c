"""Who owns the top-level names ``app``, ``models``, ``schemas`` and ``streamgauge`` in this environment.

They are common names, and pip lets one distribution overwrite the files of another without a word: what runs then is a
mixture of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions

DISTRIBUTION = "streamgauge"
PACKAGES = ("app", "models", "schemas", "streamgauge")


class OwnershipError(RuntimeError):
    """Another distribution claims a package of ours."""


def refuse_second_owner(owners: Mapping[str, Iterable[str]] | None = None) -> None:
    """Raise `OwnershipError` when a distribution other than ours has a package named like one of ours.

    Parameters
    ----------
    owners
        Top-level name -> distributions that hold it; default: what is installed. An editable installation holds none.
    """
    packages = packages_distributions() if owners is None else owners
    for package in PACKAGES:
        others = sorted({owner for owner in packages.get(package, ()) if owner.lower() != DISTRIBUTION})
        if others:
            raise OwnershipError(
                f"the distribution {others[0]} also installs a package named {package}, which mixes its files with "
                f"{DISTRIBUTION}'s; install {DISTRIBUTION} in a virtual environment without {others[0]}."
            )
