"""`textless push`: a unit dump to the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import click


class Push(click.Command):
    """The command `push` of a pipeline; with hub:OWNER/NAME among its arguments, that of a dump."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> click.Context:
        if any(arg.startswith("hub:") for arg in args):
            return to_hub.make_context(info_name, args, *rest, **more)
        return super().make_context(info_name, args, *rest, **more)


@click.command("push")
@click.argument("dump", metavar="DUMP")
@click.argument("target", metavar="hub:OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the data set private, if it does not exist.")
@click.option("--revision", metavar="BRANCH", help="Push to this branch.  [default: main]")
@click.option(
    "--license", metavar="NAME", help="Licence of the audio, where the dump does not state it: cc-by-4.0, a name …"
)
def to_hub(dump: str, target: str, private: bool, revision: str | None, license: str | None) -> None:
    """Upload a unit dump to the Hugging Face hub, as a data set.

    The token is that of `hf auth login`, or HF_TOKEN. One commit replaces the dump that is there; after a failure
    nothing is published.
    """
    from textless.units.hub import push, repository, upload_of

    repo = repository(target)
    upload = upload_of(dump, license=license)
    click.echo(f"{dump}: {upload.rows:,} rows, {upload.size:,} bytes in {len(upload.files):,} files", err=True)
    click.echo(push(upload, target, private=private, revision=revision))
    where = f'"{repo}"' + (f', revision="{revision}"' if revision else "")
    click.echo(f"load it with datasets.load_dataset({where})", err=True)
