"""What runs: Kafka and ClickHouse live at the edges; between them, arrays go in and arrays come out.

::

  events ─▶ decode ─▶ features ─▶ score ─▶ scores ─▶ ClickHouse scores
               │          ▲          │ ▲
               ▼        state        │ └── model timeline ◀── model-updates (compacted)
         dead letters   (tiles)      ▼
                                  sketches ─▶ windows ─▶ drift tests ─▶ ClickHouse model_metadata, drift_reports, alerts
  labels ───────────────────────────────────────▶ performance
"""
