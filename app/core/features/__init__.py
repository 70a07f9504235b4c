"""Events to feature vectors, by one definition for stream, training and batch, and the state behind them.

In come columns of events and joined labels; out comes a matrix (`plan`) and what the state's changelog needs
(`state_log`). May not know of models or scores.
"""
