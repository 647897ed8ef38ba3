"""Where a device's template comes from: the platform, else the site's own folder, else those that come with Flux."""

from collections.abc import Mapping
from pathlib import Path

from flux.devices.template import DeviceTemplate, builtin_template, load_template, parse_template
from flux.model import Device, InputError


class TemplateShelf:
    """Finds templates by name; one that was parsed once is kept until its text changes."""

    def __init__(self, folder: Path | None) -> None:
        """InputError for a folder or a file in it that is wrong."""
        self._local = {} if folder is None else _load_folder(folder)
        self._texts: dict[str, str] = {}
        self._parsed: dict[str, DeviceTemplate] = {}

    def template_of(self, device: Device, texts: Mapping[str, str]) -> DeviceTemplate:
        """The template of ``device``; ``texts`` are the platform's. InputError or NotFoundError: there is none."""
        name = device.metadata.template_name
        if name is None:
            key = "template" if device.type.value == "bess" else "register_map"
            raise InputError(f"{device.name}: its metadata names no {key}")
        text = texts.get(name)
        if text is None:
            return self._local.get(name) or self._builtin(name)
        if self._texts.get(name) != text:
            self._parsed[name] = parse_template(text, name)
            self._texts[name] = text
        return self._parsed[name]

    def _builtin(self, name: str) -> DeviceTemplate:
        if name not in self._parsed or name in self._texts:
            self._parsed[name] = builtin_template(name)
            self._texts.pop(name, None)
        return self._parsed[name]


def _load_folder(folder: Path) -> dict[str, DeviceTemplate]:
    if not folder.is_dir():
        raise InputError(f"templates_dir {folder}: is not a folder")
    loaded = [load_template(path) for path in sorted(folder.glob("*.yaml"))]
    return {template.name: template for template in loaded}
