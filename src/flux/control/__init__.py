"""The decision core: modes, priority, limits. Pure: no I/O, no clock, no logging of its own.

``decide(plan, state)`` is the one function that the live loop, ``flux control replay`` and a backtest all call.
"""
