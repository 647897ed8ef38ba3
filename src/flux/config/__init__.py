"""Configuration: environment (settings) and YAML files. One way for each.

The settings are imported when they are first used: a plan is read without them.
"""

from typing import TYPE_CHECKING, Any

from flux.config.yaml import YamlDocument, load_yaml

if TYPE_CHECKING:
    from flux.config.settings import Settings, load_settings

__all__ = ["Settings", "YamlDocument", "load_settings", "load_yaml"]


def __getattr__(name: str) -> Any:
    if name not in ("Settings", "load_settings"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flux.config import settings

    return getattr(settings, name)
