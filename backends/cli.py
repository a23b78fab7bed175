"""The verbs of a file of weights: `turnout checkpoint show` and `convert`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from backends.errors import CheckpointError

if TYPE_CHECKING:
    from backends.checkpoint import Checkpoint

FAILED: Final = 1

checkpoint = typer.Typer(
    no_args_is_help=True,
    help="Files of weights: .safetensors, and the .pt files of the original training.",
)

File = Annotated[Path, typer.Argument(help="A .safetensors or .pt file.", show_default=False)]


@checkpoint.command("show")
def show(file: File) -> None:
    """Print what is in a file of weights, and whether the model takes it.

    Nothing in the file is executed.
    """
    from backends import checkpoint as checkpoints  # noqa: PLC0415 - torch takes a second
    from backends.stored import open_stored  # noqa: PLC0415 - as above

    console = Console()
    try:
        stored = open_stored(file)
        table = Table(box=None, pad_edge=False)
        for heading in ("tensor", "shape", "type"):
            table.add_column(heading, header_style="dim")
        for name, tensor in stored.tensors.items():
            table.add_row(name, str(list(tensor.shape)), tensor.dtype)
        console.print(table)
        count = sum(math.prod(tensor.shape) for tensor in stored.tensors.values())
        facts = {
            "layout": stored.layout,
            "bytes": f"{file.stat().st_size:,}",
            "numbers": f"{count:,} in {len(stored.tensors)} tensors",
            **stored.metadata,
            **{f"beside: {name}": words for name, words in stored.beside.items()},
        }
        for name, value in facts.items():
            console.print(f"{name:<22}{value}", highlight=False, markup=False)
        _say_loaded(checkpoints.load(file), console)
    except CheckpointError as error:
        _fail(error)


@checkpoint.command("convert")
def convert(
    file: File,
    out: Annotated[
        Path, typer.Argument(help="The .safetensors file to write.", show_default=False)
    ],
    delta: Annotated[
        Literal["unit", "free"] | None,
        typer.Option(help="The delta's length; by default what the file says, or else unit."),
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"],
        typer.Option(help="bfloat16 halves the file and rounds each weight to 8 bits."),
    ] = "float32",
) -> None:
    """Write the weights of a .pt file (or of another .safetensors file) as .safetensors.

    Prints the new file's sha256, which is the model's identity, and the number of parameters.
    Nothing in the file is executed.

    Example: turnout checkpoint convert best_val_hit5.pt phase2.safetensors --dtype bfloat16
    """
    import torch  # noqa: PLC0415 - takes a second

    from backends import checkpoint as checkpoints  # noqa: PLC0415 - as above
    from backends.model import Config  # noqa: PLC0415 - as above

    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"{out} must end in .safetensors", param_hint="OUT")
    try:
        before = checkpoints.load(file, Config(delta) if delta else None)
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        partial = out.with_name(f"{out.name}.partial")
        checkpoints.save(before.model, partial, trained=before.trained, dtype=kind)
        partial.replace(out)
        _say_loaded(checkpoints.load(out), Console())
    except (CheckpointError, OSError) as error:
        _fail(error)


def _say_loaded(loaded: "Checkpoint", console: Console) -> None:
    trainable = sum(weight.numel() for weight in loaded.model.parameters())
    for name, value in (
        ("sha256", loaded.identity),
        ("parameters", f"{trainable:,} trainable"),
        ("delta", loaded.model.config.delta),
        ("trained", str(loaded.trained).lower()),
    ):
        console.print(f"{name:<22}{value}", highlight=False, soft_wrap=True)


def _fail(error: Exception) -> NoReturn:
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(FAILED) from error
