"""The counts of one delta, as a monitor that has no other would have them."""

from __future__ import annotations

from app.core.counts.sketches import Sketch
from models.reference.reference import Counts, Reference
from schemas.wire import SketchDelta


def unpack(delta: SketchDelta, reference: Reference) -> Counts:
    """Give the counts of a delta in the cells of its version's reference."""
    sketch = Sketch()
    sketch.add(delta)
    return sketch.to_counts(reference)
