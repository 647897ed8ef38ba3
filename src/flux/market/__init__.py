"""Market platforms: clients behind one small interface, and CSV files for anything else. Stores nothing itself."""

from flux.market.source import MarketSource, UnexpectedReplyError

__all__ = ["MarketSource", "UnexpectedReplyError"]
