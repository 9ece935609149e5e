"""Looking at suspected nodes: what proves that one is lost, and what proves nothing."""

from __future__ import annotations

import asyncio

import pytest
from deepseek_operator.decide.suspicion import Suspect, Suspicion
from deepseek_operator.probe import NodeProbe, answers

KUBELET, AGENT = 10250, 8471
NODE, POD, OTHER = "10.1.0.1", "10.0.0.1", "10.1.0.2"
DOUBT = Suspicion(frozenset({Suspect("n1", NODE, POD)}), (OTHER,))


class Net:
    """Who takes connections."""

    def __init__(self, *alive: tuple[str, int]) -> None:
        self.alive = set(alive)
        self.looks = 0
        self.changed: list[str] = []

    async def answers(self, address: str, port: int) -> bool:
        self.looks += 1
        await asyncio.sleep(0)
        return (address, port) in self.alive

    def probe(self, port: int = KUBELET) -> NodeProbe[str]:
        return NodeProbe(kubelet_port=port, on_change=self.changed.append, answers=self.answers, pause_s=0.0)

    async def look_on(self) -> None:
        """Some looks long."""
        for _ in range(200):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("alive", "lost"),
    [
        ([(OTHER, KUBELET)], {"n1"}),
        ([(OTHER, KUBELET), (NODE, KUBELET)], set()),
        ([(OTHER, KUBELET), (POD, AGENT)], set()),
        ([], set()),
    ],
    ids=["nobody there answers", "its kubelet does", "the agent does", "nobody answers anywhere"],
)
async def test_what_proves_that_a_node_is_lost(alive: list[tuple[str, int]], lost: set[str]) -> None:
    net = Net(*alive)
    probe = net.probe()
    assert probe.lost("job", DOUBT) == set(), "nothing is known before somebody has looked"
    await net.look_on()
    assert probe.lost("job", DOUBT) == lost
    assert net.changed == (["job"] if lost else [])
    probe.close()


async def test_controls_and_suspects_are_looked_at_in_one_moment() -> None:
    """A process that gets no time for a second hears nobody: were they asked one after another, it might hear some."""
    asked: set[tuple[str, int]] = set()

    async def silent(address: str, port: int) -> bool:
        asked.add((address, port))
        return await asyncio.Event().wait()

    probe: NodeProbe[str] = NodeProbe(kubelet_port=KUBELET, on_change=lambda key: None, answers=silent, pause_s=0.0)
    probe.lost("job", DOUBT)
    for _ in range(20):
        await asyncio.sleep(0)
    probe.close()
    assert asked == {(OTHER, KUBELET), (NODE, KUBELET), (POD, AGENT)}


async def test_a_node_that_answers_again_is_not_lost() -> None:
    net = Net((OTHER, KUBELET))
    probe = net.probe()
    probe.lost("job", DOUBT)
    await net.look_on()
    net.alive.add((NODE, KUBELET))
    await net.look_on()
    assert probe.lost("job", DOUBT) == set()
    assert net.changed == ["job", "job"]
    probe.close()


async def test_nobody_is_looked_at_without_a_suspicion() -> None:
    net = Net((OTHER, KUBELET))
    probe = net.probe()
    probe.lost("job", DOUBT)
    await net.look_on()
    assert probe.lost("job", Suspicion()) == set()
    before = net.looks
    for _ in range(20):
        await asyncio.sleep(0)
    assert net.looks == before
    assert net.probe(port=0).lost("job", DOUBT) == set()


async def test_a_connection_is_an_answer() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await answers("127.0.0.1", port)
    server.close()
    await server.wait_closed()
    assert not await answers("127.0.0.1", port)
