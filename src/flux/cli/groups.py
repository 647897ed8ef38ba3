"""``flux groups``: devices that are operated or looked at together."""

from typing import Annotated, Any

import typer

from flux.cli.platform import body, platform
from flux.cli.shared import choice, print_table

app = typer.Typer(no_args_is_help=True, help="Groups of devices, for control, monitoring or analysis.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
GroupName = Annotated[str, typer.Argument(help="Name of the group.")]
DeviceName = Annotated[str, typer.Argument(help="Name or id of the device.")]


@app.command()
def create(
    name: GroupName,
    site: Annotated[str, typer.Option(help="The site of its devices; ALL: it may span sites.")] = "ALL",
    type: Annotated[str, typer.Option(help="control, monitoring or analysis.")] = "monitoring",
) -> None:
    """Make a group. Of a control group one member acts: the primary, or the first backup that is active.

    Example: `flux groups create WLCE-BESS-Fleet --site WLCE --type control`
    """
    from flux.api.typed import groups
    from flux.registry import GroupType

    kind = choice(GroupType, type, "--type")
    with platform() as there:
        there.call(groups.create_group, body=body(groups.NewGroup, name=name, site=site, type=kind))
    typer.echo(f"{name}: a group for {kind} at {'all sites' if site == 'ALL' else site}")


@app.command()
def delete(name: GroupName) -> None:
    """Delete a group; its devices stay."""
    from flux.api.typed import groups

    with platform() as there:
        there.call(groups.delete_group, group=name)
    typer.echo(f"{name} is deleted")


@app.command()
def add(
    name: GroupName,
    device: DeviceName,
    role: Annotated[str, typer.Option(help="primary, backup or monitor.")] = "primary",
    priority: Annotated[int, typer.Option(min=0, max=1_000_000, help="Among those of one role: 1 comes before 2.")] = 1,
) -> None:
    """Add a device to a group, or change its role there.

    Example: `flux groups add WLCE-BESS-Fleet WLCE-BESS-01 --role primary --priority 1`
    """
    from flux.api.typed import groups
    from flux.registry import GroupRole

    what = choice(GroupRole, role, "--role")
    with platform() as there:
        there.call(
            groups.add_member, group=name, name=device, body=body(groups.Membership, role=what, priority=priority)
        )
    typer.echo(f"{device} is in {name}: {what}, priority {priority}")


@app.command()
def remove(name: GroupName, device: DeviceName) -> None:
    """Take a device out of a group."""
    from flux.api.typed import groups

    with platform() as there:
        there.call(groups.remove_member, group=name, name=device)
    typer.echo(f"{device} is no longer in {name}")


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only groups of this site, and those that span sites.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the groups; `acts` is the device that acts for a control group now."""
    from flux.api.typed import groups

    with platform() as there:
        found = there.call(groups.list_groups, site=site)
    rows = [{"name": g.name, "site": g.site, "type": g.type, "members": g.members, "acts": g.acts} for g in found]
    _print(rows, as_json, "no groups; `flux groups create --help` shows how to make one")


@app.command()
def show(name: GroupName, as_json: AsJson = False) -> None:
    """Show who is in a group, and as what."""
    from flux.api.typed import groups

    with platform() as there:
        members = there.call(groups.group_members, group=name)
    rows = [
        {
            "device": m.name,
            "site": m.site,
            "role": m.role,
            "priority": m.priority,
            "state": m.state,
            "active": "yes" if m.active else "no",
        }
        for m in members
    ]
    _print(rows, as_json, f"{name} has no members")


def _print(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        print_table(rows)
    else:
        typer.echo(nothing)
