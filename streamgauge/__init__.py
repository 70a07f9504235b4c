"""What a caller of the scoring hook imports: `streamgauge.client`.

In come events, out go the answers and problems of `schemas.serving`. Nothing here knows how a score is made, and an
import costs neither numpy nor Kafka. What to ask next and when is decided without a socket (`streamgauge.course`); how
it is asked is `streamgauge.blocking` and `streamgauge.on_loop`.
"""
