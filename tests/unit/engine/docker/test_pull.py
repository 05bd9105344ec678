"""Images from real registries: fetched once, told apart when they cannot be had, and nobody else's."""
# ruff: noqa: ASYNC110 - tests wait for levels

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.engine.docker.access import Access
from muster.engine.docker.connection import Connection
from muster.engine.docker.engine import DockerEngine
from muster.engine.docker.pull import Puller
from muster.engine.port import ContainerRun, Observation, Phase, Ref
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.ids import AccountId, ContainerId, ContainerUuid, ImageUuid, MachineId
from muster.model.image import Credential, HeldImage, ImageOrder, ImageProgress
from muster.model.reference import canonical, saved_reference
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX, OwnDaemon
from tests.docker.registry import Registry

pytestmark = pytest.mark.docker

MACHINE = MachineId("aaaaaaaaaa")
ANN, BEN = AccountId(1), AccountId(2)
LOGIN = Credential("ann", "correct-horse-battery")
WRONG = Credential("ann", "wrong-horse-battery")
MB = 1 << 20
DEADLINE_SECONDS = 40.0
QUICK = (0.05, 0.1, 0.2)

_numbers = itertools.count(1)


@pytest.fixture
def daemon(docker_daemon: Daemon) -> Iterator[Daemon]:
    """Give the shared daemon, and take the images away that a test had it fetch or save."""
    before = set(names_of(docker_daemon))
    yield docker_daemon
    docker_daemon.clear()
    if added := [name for name in names_of(docker_daemon) if name not in before]:
        docker_daemon.docker("rmi", "--force", *added)


@pytest.fixture
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Give a registry that asks for a password."""
    folder = tmp_path_factory.mktemp("locked")
    with Registry(folder, user=LOGIN.username, password=LOGIN.password) as registry:
        yield registry


def names_of(daemon: Daemon) -> list[str]:
    """Return what ``docker images`` calls everything that it has."""
    rows = daemon.docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").splitlines()
    names = set()
    for repository, tag, digest in (row.split() for row in rows):
        names |= {f"{repository}:{tag}"} if tag != "<none>" else set()
        names |= {f"{repository}@{digest}"} if digest != "<none>" else set()
    return sorted(names)


def small(tmp_path: Path) -> images.Image:
    """Make another image of 1 MB, unlike all others."""
    return images.sized(tmp_path, images.busybox(tmp_path), [MB])


def make_run(order: ImageOrder) -> ContainerRun:
    ref = Ref(MACHINE, ContainerId(f"pull{next(_numbers)}"), 1)
    account_id = ANN if order.account_id is None else order.account_id
    return ContainerRun(ref, ContainerUuid(f"u-{ref.container_id}"), account_id, order, "sleep infinity")


@asynccontextmanager
async def opened(daemon: Daemon, root: Path) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(daemon.url, installation="pulling", root=root)
    try:
        yield engine
    finally:
        with contextlib.suppress(EngineUnavailable):
            for seen in await engine.observe_all(MACHINE):
                await engine.remove(seen.ref)
        await engine.aclose()


@asynccontextmanager
async def pulling(daemon: Daemon, root: Path, **options: Any) -> AsyncIterator[Puller]:
    """Give a puller that has no patience."""
    connection = Connection(daemon.url)
    puller = Puller(connection, Access(root / "private.json"), **{"pauses": QUICK, **options})
    try:
        yield puller
    finally:
        await puller.close()
        await connection.close()


async def until_made(engine: DockerEngine, run: ContainerRun, said: list[str]) -> Observation:
    """Ask until the container is made, as the control plane does; note what it is told meanwhile."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (seen := await engine.create(run)).phase is Phase.ABSENT:
            said.append(seen.progress)
            await asyncio.sleep(0.02)
    return seen


async def until_held(ask: Callable[[], Awaitable[ImageProgress]], said: list[str] | None = None) -> HeldImage:
    """Ask until the image is there; note what is told meanwhile."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (progress := await ask()).held is None:
            if said is not None and progress.progress not in said:
                said.append(progress.progress)
            await asyncio.sleep(0.005)
    return progress.held


async def refused(puller: Puller, order: ImageOrder, asker: str = "c") -> str:
    """Ask until it is refused; return why."""
    with pytest.raises(EngineRejected) as refusal:
        await until_held(lambda: puller.ask(order, asker))
    assert refusal.value.reason == "image_pull_failed"
    return str(refusal.value)


# One fetch for all.


def test_five_containers_that_wait_for_300_mb_are_one_fetch(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    image = images.sized(tmp_path, images.busybox(tmp_path), [100 * MB] * 3)
    reference = registry.push(image, "team/large:1")
    told: list[list[str]] = [[] for _ in range(5)]

    async def scenario() -> list[Observation]:
        async with opened(daemon, tmp_path / "root") as engine:
            runs = [make_run(ImageOrder(reference)) for _ in told]
            return await asyncio.gather(*(until_made(engine, run, said) for run, said in zip(runs, told, strict=True)))

    made = asyncio.run(scenario())
    assert {seen.phase for seen in made} == {Phase.CREATED}
    assert {seen.image_digest for seen in made} == {registry.digest("team/large:1")}
    assert set(registry.downloads("team/large").values()) == {1}
    assert registry.questions("team/large") == 3  # ours for its digest, Docker's for its digest and for what it is
    for said in told:
        assert any(" of 31" in words for words in said), "each was told how far it is"


def test_accounts_that_wait_with_passwords_of_their_own_download_it_once(
    daemon: Daemon, locked: Registry, tmp_path: Path
) -> None:
    image = images.sized(tmp_path, images.busybox(tmp_path), [40 * MB])
    reference = locked.push(image, "team/app:1")

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            orders = [ImageOrder(reference, credential=LOGIN, account_id=AccountId(number)) for number in range(3)]
            await asyncio.gather(*(until_held(lambda order=order: puller.ask(order, "c")) for order in orders))  # type: ignore[misc]

    asyncio.run(scenario())
    assert locked.downloads("team/app")[image.layers[-1].digest] == 1


def test_nobody_who_asks_just_when_it_is_there_begins_another_fetch(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")

    async def scenario() -> None:
        async def ask_without_pause(asker: str) -> None:
            while (await puller.ask(ImageOrder(reference), asker)).held is None:
                pass

        async with pulling(daemon, tmp_path) as puller, asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*(ask_without_pause(str(number)) for number in range(50)))

    asyncio.run(scenario())
    assert registry.questions("team/app") == 2


def test_who_waits_is_woken_when_there_is_an_answer(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller, asyncio.timeout(DEADLINE_SECONDS):
            for name in (reference, registry.reference("team/none:1")):
                woken = asyncio.Event()
                assert (await puller.ask(ImageOrder(name), "c", woken.set)).held is None
                await woken.wait()
                if name == reference:
                    assert (await puller.ask(ImageOrder(name), "c")).held is not None
                else:
                    with pytest.raises(EngineRejected):
                        await puller.ask(ImageOrder(name), "c")

    asyncio.run(scenario())


# Refusals.


def test_what_the_registry_does_not_have_is_told_to_all_who_wait_and_asked_for_anew_later(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.reference("team/late:1")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            runs = [make_run(ImageOrder(reference)) for _ in range(5)]
            outcomes = await asyncio.gather(*(until_made(engine, run, []) for run in runs), return_exceptions=True)
            for outcome in outcomes:
                assert isinstance(outcome, EngineRejected)
                assert outcome.reason == "image_pull_failed"
                assert "the registry has no such image: check its name and tag" in str(outcome)
            assert registry.questions("team/late") <= 2
            assert await engine.observe_all(MACHINE) == []
            await asyncio.to_thread(registry.push, small(tmp_path), "team/late:1")
            assert (await until_made(engine, runs[0], [])).phase is Phase.CREATED

    asyncio.run(scenario())


def test_a_denial_says_how_to_log_in(daemon: Daemon, locked: Registry, tmp_path: Path) -> None:
    reference = locked.push(small(tmp_path), "team/app:1")

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            without = await refused(puller, ImageOrder(reference, account_id=ANN))
            assert f"`muster image login {locked.host}`" in without
            wrong = await refused(puller, ImageOrder(reference, credential=WRONG, account_id=ANN))
            assert "the registry refuses it to ann: check the name" in wrong
            order = ImageOrder(reference, credential=LOGIN, account_id=ANN)
            assert (await until_held(lambda: puller.ask(order, "c"))).digest == locked.digest("team/app:1")

    asyncio.run(scenario())


def test_a_registry_that_is_away_is_tried_again_with_growing_pauses(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")
    registry.close()
    said: list[str] = []

    async def scenario() -> str:
        async with pulling(daemon, tmp_path) as puller:
            with pytest.raises(EngineRejected) as refusal:
                await until_held(lambda: puller.ask(ImageOrder(reference), "c"), said)
            return str(refusal.value)

    words = asyncio.run(scenario())
    assert "the registry cannot be reached from this machine" in words
    assert "connection refused" in words
    assert [each.rpartition("; ")[2] for each in said if "again" in each] == [f"again in {each} s" for each in QUICK]


def test_a_registry_that_hangs_is_tried_again_until_it_goes_on(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")
    registry.pause()
    said: list[str] = []

    async def scenario() -> None:
        async with pulling(daemon, tmp_path, silence_seconds=0.5, pauses=[0.05] * 50) as puller:
            asking = asyncio.create_task(until_held(lambda: puller.ask(ImageOrder(reference), "c"), said))
            while not any("nothing was heard for 0.5 s" in words for words in said):
                await asyncio.sleep(0.01)
            registry.resume()
            assert (await asking).digest == registry.digest("team/app:1")

    asyncio.run(scenario())


def test_a_full_disk_is_told_and_nothing_is_half_made(
    own_daemon: OwnDaemon, registry: Registry, tmp_path: Path
) -> None:
    daemon = own_daemon(disk_bytes=64 * MB)
    reference = registry.push(images.sized(tmp_path, images.busybox(tmp_path), [100 * MB]), "team/large:1")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            with pytest.raises(EngineRejected, match="no space left on the disk of Docker: free some") as refusal:
                await until_made(engine, make_run(ImageOrder(reference)), [])
            assert refusal.value.reason == "image_pull_failed"
            assert await engine.observe_all(MACHINE) == []
            assert reference not in {held.reference for held in await engine.images(MACHINE)}
            assert (await until_made(engine, make_run(ImageOrder(BUSYBOX)), [])).phase is Phase.CREATED

    asyncio.run(scenario())


@pytest.mark.parametrize("reference", ["", "Team/asr", "http://lab/x", "f" * 64, "a:b:c", "../containers/json"])
def test_a_reference_that_cannot_be_is_refused_at_once(daemon: Daemon, tmp_path: Path, reference: str) -> None:
    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            with pytest.raises(EngineRejected, match="names no image") as refusal:
                await engine.create(make_run(ImageOrder(reference)))
            assert refusal.value.reason == "image_pull_failed"

    asyncio.run(scenario())


def test_an_image_is_not_had_by_its_id(daemon: Daemon, tmp_path: Path) -> None:
    docker_id = daemon.docker("images", "--quiet", "--no-trunc", BUSYBOX)

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            for reference in (docker_id, docker_id.removeprefix("sha256:")):
                with pytest.raises(EngineRejected):
                    await engine.create(make_run(ImageOrder(reference)))

    asyncio.run(scenario())


# What a tag stands for.


def test_a_tag_that_moved_is_fetched_again_only_for_those_who_ask_and_once_for_each(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")
    old = registry.digest("team/app:1")
    always = ImageOrder(reference, is_always_pulled=True)

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            assert (await until_held(lambda: puller.ask(always, "a"))).digest == old
            await asyncio.to_thread(registry.push, small(tmp_path), "team/app:1")
            new = registry.digest("team/app:1")
            asked = registry.questions("team/app")
            assert (await until_held(lambda: puller.ask(ImageOrder(reference), "b"))).digest == old
            assert (
                await until_held(lambda: puller.ask(ImageOrder(f"{reference[:-2]}@{old}", True), "b"))
            ).digest == old
            assert registry.questions("team/app") == asked
            assert (await until_held(lambda: puller.ask(always, "c"))).digest == new
            assert (await until_held(lambda: puller.ask(ImageOrder(reference), "d"))).digest == new

    asyncio.run(scenario())


def test_those_who_always_ask_share_fetches_but_none_that_began_before(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(images.sized(tmp_path, images.busybox(tmp_path), [60 * MB]), "team/app:1")
    always = ImageOrder(reference, is_always_pulled=True)

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            first = asyncio.create_task(until_held(lambda: puller.ask(always, "first")))
            while not registry.downloads("team/app"):
                await asyncio.sleep(0.005)
            daemon.pause()
            old = registry.digest("team/app:1")
            await asyncio.to_thread(registry.push, small(tmp_path), "team/app:1")
            new, asked = registry.digest("team/app:1"), registry.questions("team/app")
            for name in "abcd":
                assert (await puller.ask(always, name)).held is None
            daemon.resume()
            others = [until_held(lambda name=name: puller.ask(always, name)) for name in "abcd"]  # type: ignore[misc]
            assert {held.digest for held in await asyncio.gather(*others)} == {new}
            assert (await first).digest in {old, new}
            assert registry.questions("team/app") - asked == 2

    asyncio.run(scenario())


def test_the_digest_of_what_a_container_was_made_of_is_observed(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")
    digest = registry.digest("team/app:1")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            by_digest = make_run(ImageOrder(f"{registry.reference('team/app')}@{digest}"))
            assert (await until_made(engine, by_digest, [])).image_digest == digest
            by_tag = make_run(ImageOrder(reference))
            await until_made(engine, by_tag, [])
            assert (await engine.start(by_tag.ref)).image_digest == digest
            assert (await until_made(engine, make_run(ImageOrder(BUSYBOX)), [])).image_digest == ""

    asyncio.run(scenario())


def test_a_digest_is_the_one_of_the_registry_that_was_named(
    daemon: Daemon, registry: Registry, locked: Registry, tmp_path: Path
) -> None:
    image = small(tmp_path)
    here = registry.push(image, "team/app:1")
    there = locked.push(replace(image, command=("/bin/ls",)), "team/app:1")

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            await until_held(lambda: puller.ask(ImageOrder(there, credential=LOGIN), "c"))
            daemon.docker("tag", there, here)  # one image of two names, and a digest of one of them only
            assert (await until_held(lambda: puller.ask(ImageOrder(here), "c"))).digest == ""
            held = await until_held(lambda: puller.ask(ImageOrder(here, is_always_pulled=True), "c"))
            assert held.digest == registry.digest("team/app:1") != locked.digest("team/app:1")

    asyncio.run(scenario())


def test_images_are_listed_by_the_names_that_people_compare(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(small(tmp_path), "team/app:1")
    daemon.docker("tag", BUSYBOX, "docker.io/library/plain")
    daemon.docker("tag", BUSYBOX, "docker.io/team/plain:2")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            await until_made(engine, make_run(ImageOrder(reference)), [])
            await asyncio.to_thread(registry.push, small(tmp_path), "team/app:1")
            while (await engine.prepare(MACHINE, ImageOrder(reference, is_always_pulled=True))).held is None:
                await asyncio.sleep(0.01)  # the first one has lost its tag now
            listed = {held.reference: held for held in await engine.images(MACHINE)}
            assert sorted(listed) == names_of(daemon)
            assert all(name == canonical(name) for name in listed)
            assert {"plain:latest", "team/plain:2", reference} < set(listed)
            assert listed[reference].digest == registry.digest("team/app:1")
            assert listed[reference].size_bytes > MB

    asyncio.run(scenario())


# Whose it is.


def test_what_was_fetched_with_a_password_is_given_to_others_only_with_theirs(
    daemon: Daemon, locked: Registry, tmp_path: Path
) -> None:
    reference = locked.push(small(tmp_path), "team/app:1")
    digest = locked.digest("team/app:1")
    by_digest = f"{locked.reference('team/app')}@{digest}"

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            await until_held(lambda: puller.ask(ImageOrder(reference, credential=LOGIN, account_id=ANN), "a"))
        async with pulling(daemon, tmp_path) as puller:  # a new server knows it, too
            for name, credential in itertools.product((reference, by_digest), (None, WRONG)):
                stranger = ImageOrder(name, credential=credential, account_id=BEN)
                assert "the registry refuses it" in await refused(puller, stranger)
                with pytest.raises(EngineRejected):
                    await until_held(lambda order=stranger: puller.ask(replace(order, is_always_pulled=True), "b"))  # type: ignore[misc]
            await asyncio.to_thread(locked.push, small(tmp_path), "team/app:1")
            let_in = ImageOrder(reference, credential=LOGIN, account_id=BEN)
            held = await until_held(lambda: puller.ask(let_in, "b"))
            assert held.digest == digest, "to be let in is no reason to fetch a tag again"
            for name, account in itertools.product((reference, by_digest), (ANN, BEN, None)):
                assert (await puller.ask(ImageOrder(name, account_id=account), "c")).held is not None

    asyncio.run(scenario())


def test_a_server_that_dies_while_it_fetches_leaves_no_private_image_open_to_all(
    daemon: Daemon, locked: Registry, tmp_path: Path
) -> None:
    reference = locked.push(small(tmp_path), "team/app:1")

    async def scenario() -> None:
        order = ImageOrder(reference, credential=LOGIN, account_id=ANN)
        async with pulling(daemon, tmp_path) as puller:
            await puller.ask(order, "a")
            while not locked.downloads("team/app"):
                await asyncio.sleep(0.001)
        daemon.docker("login", "--username", LOGIN.username, "--password", LOGIN.password, locked.host)
        daemon.docker("pull", reference)  # as Docker may have done to the end
        async with pulling(daemon, tmp_path) as puller:
            await refused(puller, ImageOrder(reference, account_id=BEN))
            await until_held(lambda: puller.ask(order, "a"))

    asyncio.run(scenario())


def test_a_password_is_written_nowhere(
    daemon: Daemon, locked: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = locked.push(small(tmp_path), "team/app:1")
    root = tmp_path / "root"
    said: list[str] = []

    def read_files() -> list[str]:
        return [path.read_text(errors="replace") for path in (*root.rglob("*"), daemon.log) if path.is_file()]

    async def scenario() -> None:
        async with opened(daemon, root) as engine:
            order = ImageOrder(reference, credential=LOGIN, account_id=ANN)
            run = make_run(order)
            said.append(repr((order, run)))
            await until_made(engine, run, said)
            await engine.start(run.ref)
            for credential in (WRONG, Credential("ann", LOGIN.password + "\n")):
                with pytest.raises(EngineRejected) as refusal:
                    await until_made(engine, make_run(replace(order, credential=credential, account_id=BEN)), said)
                said.append(repr(refusal.getrepr(showlocals=False)))
            said.append(daemon.docker("inspect", daemon.docker("ps", "--quiet", "--no-trunc"), reference))
            files = await asyncio.to_thread(read_files)
            assert len(files) > 5
            said.extend(files)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    for text in (caplog.text, *said):
        assert "horse" not in text


def test_a_saved_image_is_its_accounts_and_never_fetched(daemon: Daemon, tmp_path: Path) -> None:
    reference = saved_reference(ANN, ImageUuid("image-0123456789"))

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            run = make_run(ImageOrder(BUSYBOX))
            await until_made(engine, run, [])
            with pytest.raises(EngineRejected, match="no such image was saved on this machine"):
                await engine.create(make_run(ImageOrder(reference, account_id=ANN)))
            await engine.save(run.ref, reference)
            for order in (
                ImageOrder(reference, account_id=BEN),
                ImageOrder(f"saved.muster.invalid/{BEN}/image-0123456789", account_id=BEN),
                ImageOrder("saved.muster.invalid/x", account_id=BEN),
            ):
                with pytest.raises(EngineRejected, match="no such image was saved on this machine"):
                    await engine.create(make_run(order))
            always = ImageOrder(reference, is_always_pulled=True, account_id=ANN)
            assert (await engine.create(make_run(always))).phase is Phase.CREATED

    asyncio.run(scenario())


def test_the_image_that_a_container_was_copied_by_is_nobodys(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("tag", BUSYBOX, "muster.invalid/copy:c1")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            with pytest.raises(EngineRejected):
                await engine.create(make_run(ImageOrder("muster.invalid/copy:c1", account_id=BEN)))
            assert not any(held.reference.startswith("muster.invalid/") for held in await engine.images(MACHINE))

    asyncio.run(scenario())


def test_a_saved_image_is_a_plain_one_and_saved_once(daemon: Daemon, tmp_path: Path) -> None:
    reference = saved_reference(ANN, ImageUuid("image-0123456789"))

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            run = replace(make_run(ImageOrder(BUSYBOX)), cmd="echo mine >/root/note")
            await until_made(engine, run, [])
            await engine.start(run.ref)
            while (await engine.observe(run.ref)).phase is not Phase.EXITED:
                await asyncio.sleep(0.01)
            saved = await engine.save(run.ref, reference)
            image_id = daemon.docker("inspect", "--format", "{{.Id}}", reference)
            assert await engine.save(run.ref, reference) == saved
            await engine.remove(run.ref)
            assert await engine.save(run.ref, reference) == saved
            assert daemon.docker("inspect", "--format", "{{.Id}}", reference) == image_id
            assert (saved.reference, saved.digest) == (reference, "")
            assert saved in await engine.images(MACHINE)

    asyncio.run(scenario())
    labels = daemon.docker("inspect", "--format", "{{range .Config.Labels}}{{.}}{{end}}", reference)
    assert labels == "", "of our labels there are only names left"
    assert daemon.docker("run", "--rm", reference, "cat", "/root/note") == "mine"
    assert daemon.docker("run", "--rm", reference) == ""


# Deaths.


def test_a_fetch_goes_on_after_the_daemon_died_in_the_middle(
    own_daemon: OwnDaemon, registry: Registry, tmp_path: Path
) -> None:
    daemon = own_daemon()
    reference = registry.push(images.sized(tmp_path, images.busybox(tmp_path), [60 * MB]), "team/app:1")

    async def scenario() -> None:
        async with opened(daemon, tmp_path / "root") as engine:
            run = make_run(ImageOrder(reference))
            for end in (daemon.kill, daemon.stop):
                before = sum(registry.downloads("team/app").values())
                assert (await engine.create(run)).phase is Phase.ABSENT
                while sum(registry.downloads("team/app").values()) == before:
                    assert (await engine.create(run)).phase is Phase.ABSENT
                await asyncio.to_thread(end)
                with pytest.raises(EngineUnavailable):
                    await engine.create(run)
                await asyncio.to_thread(daemon.start)
            assert (await until_made(engine, run, [])).image_digest == registry.digest("team/app:1")

    asyncio.run(scenario())


def test_a_fetch_ends_with_its_engine_and_the_next_one_finishes_it(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    reference = registry.push(images.sized(tmp_path, images.busybox(tmp_path), [60 * MB]), "team/app:1")
    order = ImageOrder(reference)

    async def scenario() -> None:
        async with pulling(daemon, tmp_path) as puller:
            await puller.ask(order, "c")
            while not registry.downloads("team/app"):
                await asyncio.sleep(0.001)
        with pytest.raises(EngineUnavailable):
            await puller.ask(order, "c")
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pull ")]
        async with pulling(daemon, tmp_path) as puller:
            await until_held(lambda: puller.ask(order, "c"))

    asyncio.run(scenario())
