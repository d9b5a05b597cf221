"""`textless export`: a model of ours, or one that textless reads, for other tools."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", "out", required=True, metavar="FOLDER", help="A folder that is not there yet.")
@click.option(
    "--to", type=click.Choice(["transformers", "fairseq", "torchaudio"]), required=True, help="Who is to read it."
)
def export(model: str, out: str, to: str) -> None:
    """Write a model as another tool reads it: transformers, fairseq or torchaudio.

    MODEL is an encoder, a HuBERT on waveforms in any form that --encoder takes; or the folder of a language model,
    which transformers alone reads, as a Llama.
    """
    run(model, out, to)


def run(model: str, out: str, to: str) -> None:
    """Raises OutputExistsError for an output that exists, ModelError for a model that cannot be exported.

    The folder appears when it is complete.
    """
    from textless.cli.locks import sole
    from textless.cli.outputs import real
    from textless.errors import OutputExistsError

    folder = real(out)
    if not folder.parent.is_dir():
        raise OutputExistsError(f"{folder.parent}: no such folder to write {folder.name} into; make it first")
    if folder.exists():
        raise OutputExistsError(f"{out}: exists; give another name")
    with sole(folder) as partial:
        if folder.exists():  # written meanwhile by the command that was waited for
            raise OutputExistsError(f"{out}: exists; give another name")
        _write(model, partial, to)
        partial.rename(folder)


def _write(model: str, folder: Path, to: str) -> None:
    from textless.errors import ModelError
    from textless.model import EMBEDDED
    from textless.model_io import CONFIG, read_json

    place = next((p for p in (EMBEDDED / model, Path(model)) if p.exists()), Path(model))
    if place.is_dir() and not (place / CONFIG).exists() and (place / "encoder").is_dir():
        raise ModelError(f"{model}: a set of models; export one of them, {model}/encoder or {model}/lm")
    if (place / CONFIG).is_file() and read_json(place / CONFIG).get("kind") == "lm":
        if to != "transformers":
            raise ModelError(f"{model}: a language model, which {to} has no place for; export it --to transformers")
        from textless.lm.hf.llama import export_llama
        from textless.lm.load import load_lm
        from textless.lm.model import UnitLM

        lm = load_lm(place)
        assert isinstance(lm, UnitLM)  # of this kind
        export_llama(lm, folder)
        return
    from textless.units.encoders.export import export_hubert
    from textless.units.encoders.load import resolve_encoder

    source, _, normalisation = resolve_encoder(place if place.exists() else model)
    export_hubert(source, folder, to=to, normalisation=normalisation)
