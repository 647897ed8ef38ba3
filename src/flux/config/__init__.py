"""Configuration: environment (settings) and YAML files. One way for each."""

from flux.config.settings import Settings, load_settings
from flux.config.yaml import YamlDocument, load_yaml

__all__ = ["Settings", "YamlDocument", "load_settings", "load_yaml"]
