"""The drift statistics, one per file. Each takes counts or deciles; `comparison` and `over_time` run them.

=============  ======================================================  ==========================
`deciles`      d1 … d10 of a metric from the counts of its cells       not a test
`psi`          population stability index of reference and detection   both windows' counts
`ks`           two-sample Kolmogorov-Smirnov                           both windows' counts
`wasserstein`  distance in standard deviations of the reference        both windows' counts
`divergence`   Jensen-Shannon distance                                 both windows' counts
`shares`       categories, missing values, values beyond the range     both windows' counts
`interval`     a decile against the central range of its past          the deciles of past windows
`trend`        the slope of a decile over the windows                  the deciles of past windows
=============  ======================================================  ==========================
"""
