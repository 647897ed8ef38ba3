"""What a battery earned, could have earned, and why: tariffs, backtests, the optimum, settlement."""
