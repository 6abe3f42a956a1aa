"""New settings while calls run."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
import yaml

from first_core.app import Process, load_host, read_settings
from first_core.app.reload import FileWatch
from first_core.testing.clock import FakeClock
from first_core.testing.simulator import StallAfterEvents


class Edited:
    """A process whose settings file can be written anew."""

    def __init__(self, path, process, url):
        self.path = path
        self.process = process
        self.url = url

    @property
    def catalog(self):
        return self.process.router.catalog

    async def reload(self, settings):
        """Write the file and read it again."""
        text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
        self.path.write_text(text)
        return await self.process.reloader.reload()


@pytest.fixture
def edited(tmp_path, settings_of):
    @asynccontextmanager
    async def opener(settings):
        path = tmp_path / "first.yaml"
        path.write_text(yaml.safe_dump(settings))
        host = load_host(path)

        def read():
            return read_settings(path, host)

        process = Process(read(), host, read=read)
        addresses = await process.start()
        url = next(a for a in addresses if a.startswith("http://"))
        try:
            yield Edited(path, process, url)
        finally:
            process.end_calls()
            await process.stop()

    return opener


@pytest.fixture
def quiet(settings_of, sim):
    """Settings of a gateway before `sim` whose log can be read."""

    def make(*sims, **sections):
        return settings_of(*(sims or (sim,)), **{"log": {"level": "info"}, **sections})

    return make


ALIAS = {"models": [{"name": "m", "aliases": ["nick"]}]}


async def test_reload_brings_an_alias(edited, quiet, chat):
    """A model's new name is usable at once."""
    async with edited(quiet()) as gateway:
        taken = await gateway.reload(quiet(routing=ALIAS))
        async with chat(gateway.url, model="nick") as answer:
            status = answer.status

    assert (taken, status) == (True, 200)


async def test_reload_keeps_unchanged_backends(edited, quiet):
    """A backend whose section is the same is not touched."""
    async with edited(quiet()) as gateway:
        await gateway.reload(quiet())
        before = [e.backend for e in gateway.catalog.endpoints()]
        await gateway.reload(quiet(routing=ALIAS))
        after = [e.backend for e in gateway.catalog.endpoints()]

    assert before == after


@pytest.mark.parametrize(
    "bad",
    [
        ("log: {level: loud}\n", ":1: log.level: "),
        ("http:\n  lissen: x\n", ":2: http.lissen: unknown key"),
        ("routing: {policy: nonsense}\n", "there is no policy 'nonsense'"),
        ("{", "not valid YAML"),
    ],
)
async def test_bad_file_changes_nothing(edited, quiet, chat, caplog, bad):
    """The log tells place and key, and calls go on as before."""
    text, fault = bad
    async with edited(quiet(routing=ALIAS)) as gateway:
        taken = await gateway.reload(text)
        async with chat(gateway.url, model="nick") as answer:
            status = answer.status

    assert (taken, status) == (False, 200)
    assert fault in next(r.fault for r in caplog.records if r.message == "settings_refused")


async def test_replaced_backend_ends_its_streams_first(edited, quiet, sim, other_sim, chat):
    """A stream in flight goes on at the server that is no longer configured; new calls do not."""
    sim.faults.add(StallAfterEvents(count=2))
    async with edited(quiet()) as gateway, chat(gateway.url, stream=True) as stream:
        await stream.wait(b"data: ")
        await gateway.reload(quiet(other_sim))
        async with chat(gateway.url) as answer:
            status = answer.status
        running_count = sim.running_count

    assert status == 200
    assert running_count == 1
    assert any(received[0] == "POST" for received in other_sim.received)


async def test_replaced_backend_stops_when_its_calls_have_ended(edited, quiet, sim, other_sim):
    """Its connections are closed then."""
    async with edited(quiet()) as gateway:
        await gateway.reload(quiet(other_sim))
        await sim._wait(lambda: sim.connection_count == 0, 10.0)


async def test_reload_leaves_no_gap(edited, quiet, sim):
    """A model that stays is ready all the time: the new backend has looked before it goes live."""
    async with edited(quiet()) as gateway:
        while not any(e.is_ready for e in gateway.catalog.endpoints()):
            await gateway.catalog.next_change().wait()
        states = []
        done = asyncio.Event()

        async def watch():
            while not done.is_set():
                change = gateway.catalog.next_change()
                states.append([e.is_ready for e in gateway.catalog.endpoints()])
                await change.wait()

        watching = asyncio.create_task(watch())
        changed = quiet()
        changed["vllm"]["servers"][0]["probe_interval_s"] = 0.5
        before = gateway.catalog.endpoints()[0].backend
        await gateway.reload(changed)
        after = gateway.catalog.endpoints()[0].backend
        done.set()
        watching.cancel()

    assert before is not after
    assert all(state == [True] for state in states)


async def test_reload_tells_what_needs_a_restart(edited, quiet, caplog):
    """Addresses and the like stay as they were, and the log says which."""
    caplog.set_level(logging.INFO)
    async with edited(quiet()) as gateway:
        new = quiet(drain_s=3, http={"listen": "127.0.0.1:1", "heartbeat_s": 9})
        await gateway.reload(new)
        records = {r.message: r for r in caplog.records}

    assert records["settings_need_restart"].keys == ["drain_s", "http.listen"]
    assert records["settings_reloaded"].changed == ["http.heartbeat_s"]


async def test_watch_notices_a_new_file(tmp_path):
    """A file that was written anew is noticed at the next look, one that was not is left alone."""
    path, clock, told = tmp_path / "first.yaml", FakeClock(), asyncio.Queue()
    path.write_text("a")
    watching = asyncio.create_task(FileWatch(path, clock, 1.0).serve(lambda: told.put_nowait(1)))
    await clock.wait_timers()
    clock.advance(1.0)
    await clock.wait_timers()
    nothing = told.empty()
    path.write_text("ab")
    clock.advance(1.0)
    await told.get()
    watching.cancel()

    assert nothing
