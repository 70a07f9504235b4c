"""What a monitor runs: scores and dead letters to rows, sketches to findings, and the handing over to a successor."""
