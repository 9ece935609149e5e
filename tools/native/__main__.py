"""The native cluster's command line: `python -m native up|down|kubeconfig|stop-node|start-node`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from native import cluster, images
from native.errors import main_of


def main(arguments: Sequence[str]) -> None:
    """Runs one verb.

    Raises:
        NativeError: what went wrong, for one line on stderr.
    """
    options = _parser().parse_args(arguments)
    if options.verb == "up":
        _up(options.name, options.nodes, with_images=not options.no_images)
    elif options.verb == "down":
        cluster.down(options.name)
        print(f"cluster {options.name} is gone", file=sys.stderr)
    elif options.verb == "kubeconfig":
        print(cluster.get(options.name).kubeconfig)
    elif options.verb == "stop-node":
        cluster.stop_node(cluster.get(options.name), options.node)
    else:
        cluster.start_node(cluster.get(options.name), options.node)


def _up(name: str, nodes: int, *, with_images: bool) -> None:
    began = time.monotonic()
    archives = images.build() if with_images else [images.pause()]
    built = time.monotonic()
    running = cluster.up(name, nodes, archives)
    print(
        f"images {built - began:.0f} s, cluster {name} with {nodes} nodes {time.monotonic() - built:.0f} s",
        file=sys.stderr,
    )
    print(f"export KUBECONFIG={running.kubeconfig}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="native", description="A Kubernetes cluster on this machine, without Docker.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("up", "start it, or keep a whole one, and print the line that sets KUBECONFIG"),
        ("down", "end it and remove all that it had"),
        ("kubeconfig", "print the path of an administrator's kubeconfig"),
        ("stop-node", "cut a node's power"),
        ("start-node", "boot a stopped node"),
    ):
        command = verbs.add_parser(verb, help=text)
        command.add_argument("--name", default="default", help="name of the cluster (default: default)")
        if verb == "up":
            command.add_argument("--nodes", type=int, default=2, help="number of nodes (default: 2)")
            command.add_argument("--no-images", action="store_true", help="only the pause image: no image is built")
        elif verb.endswith("-node"):
            command.add_argument("node", type=int, help="number of the node, from 0")
    return parser


if __name__ == "__main__":
    main_of(main)
