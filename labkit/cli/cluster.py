"""Commands that take the lab to several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.command import CHANGES, Choice, finish, group, show

swarm = group(
    "swarm", "The lab on Docker Swarm: the same sites, balancer and names on several machines."
)
kubernetes = group(
    "kubernetes",
    "The lab on Kubernetes: the same sites, balancer and names on a cluster that exists.",
)
export = group("export", "Write the files by which another engine deploys the lab.")

Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="URL",
        help="A swarm's manager: unix:///run/docker.sock, ssh://USER@HOST or tcp://HOST:PORT (default: engine.host).",
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        help="The file that names the cluster (default: kubectl's own, KUBECONFIG or ~/.kube/config).",
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Which of its contexts (default: engine.context, else the file's current one).",
    ),
]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 3 when something would change.")
]


@swarm
def up(choice: Choice, host: Host = None) -> None:
    """Deploy the lab to the swarm, or make what runs there what lab.toml says.

    The images are built and copied to a registry that the nodes reach, with their digests. What is as it should be is left
    alone; a changed service is replaced task by task. The command ends when each replica has answered through each node."""
    lab = choice.lab(log=True)
    from labkit.cluster import swarm as engine

    finish(engine.up(lab, host), choice)


@swarm
def plan(choice: Choice, host: Host = None, exit_code: ExitCode = False) -> None:
    """Show what up would change on the swarm; change nothing."""
    lab = choice.lab()
    from labkit.cluster import swarm as engine

    result = engine.plan(lab, host)
    show(result, choice)
    if exit_code and result.value.differences:
        raise typer.Exit(CHANGES)


@swarm
def check(choice: Choice, host: Host = None) -> None:
    """Check the lab on the swarm: nodes, tasks, images, pages, names, and confinement from inside.

    The table of guarantees says what is kept there of what holds on one machine."""
    lab = choice.lab()
    from labkit.cluster import swarm as engine

    finish(engine.check(lab, host), choice)


@swarm
def down(choice: Choice, host: Host = None) -> None:
    """Remove all that labkit made for this lab on the swarm, and wait until it is gone."""
    lab = choice.lab(log=True)
    from labkit.cluster import swarm as engine

    finish(engine.down(lab, host), choice)


@kubernetes
def kubernetes_up(choice: Choice, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Deploy the lab to the cluster, or make what runs there what lab.toml says.

    The images are built and copied to a registry that the nodes reach, with their digests. What is as it should be is left
    alone; a changed replica's new pod is ready before the old one ends. The command ends when each replica has answered
    through each node."""
    lab = choice.lab(log=True)
    from labkit.cluster import kubernetes as engine

    finish(engine.up(lab, kubeconfig, context), choice)


@kubernetes
def kubernetes_plan(
    choice: Choice, kubeconfig: Kubeconfig = None, context: Context = None, exit_code: ExitCode = False
) -> None:  # fmt: skip
    """Show what up would change on the cluster, by the cluster's own dry run; change nothing."""
    lab = choice.lab()
    from labkit.cluster import kubernetes as engine

    result = engine.plan(lab, kubeconfig, context)
    show(result, choice)
    if exit_code and result.value.differences:
        raise typer.Exit(CHANGES)


@kubernetes
def kubernetes_check(
    choice: Choice, kubeconfig: Kubeconfig = None, context: Context = None
) -> None:
    """Check the lab on the cluster: nodes, pods, images, pages, names, and confinement from inside.

    The table of guarantees says what is kept there of what holds on one machine."""
    lab = choice.lab()
    from labkit.cluster import kubernetes as engine

    finish(engine.check(lab, kubeconfig, context), choice)


@kubernetes
def kubernetes_down(choice: Choice, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Remove the lab's namespace on the cluster with all that is in it, and wait until it is gone."""
    lab = choice.lab(log=True)
    from labkit.cluster import kubernetes as engine

    finish(engine.down(lab, kubeconfig, context), choice)


@export
def export_swarm(
    choice: Choice,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    nodes: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="ADDRESS", help="A node's address; may be repeated."),
    ] = None,
    host: Host = None,
) -> None:
    """Write the lab as a stack for docker stack deploy, with the nodes' settings and LOST.md.

    LOST.md says which guarantees of one machine the stack keeps, and which not; with --host, as it was seen there from inside."""
    lab = choice.lab()
    from labkit.cluster import files

    finish(files.swarm(lab, folder, nodes or (), host), choice)


@export
def export_kubernetes(
    choice: Choice,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    nodes: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="ADDRESS", help="A node's address; may be repeated."),
    ] = None,
) -> None:
    """Write the lab as Kubernetes' objects for kubectl apply -k, with the nodes' seccomp profile and LOST.md."""
    lab = choice.lab()
    from labkit.cluster import files

    finish(files.kubernetes(lab, folder, nodes or ()), choice)
