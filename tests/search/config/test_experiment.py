from pathlib import Path

import pytest

from quant_core import InputError, parse
from quant_core.qat import QatConfig
from search.config.files import dumps, load, loads, template

GOOD = '[task]\nname = "digits"\n[space]\nweight = ["int4:channel"]\nactivation = "int8:tensor"\n[device]\nname = "counts"\n'


def test_template_is_valid_and_says_the_defaults() -> None:
    written = loads(template())
    plain = loads(GOOD)
    assert written.search == plain.search
    assert written.evaluate == plain.evaluate
    assert written.track == plain.track
    assert written.run == plain.run
    assert written.export == plain.export


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert load(path).search.trials > 0


def test_resolved_text_reads_back_the_same() -> None:
    experiment = loads(GOOD + 'budget = { weight_bytes = "25% of float", latency_s = 0.001 }\n[search]\noptions = { startup = 3 }\n')
    assert loads(dumps(experiment)) == experiment
    assert experiment.device.budget["weight_bytes"].value == 0.25
    assert experiment.device.budget["latency_s"].of == ""


def test_choices_from_texts_tables_and_mixtures() -> None:
    text = GOOD.replace(
        '["int4:channel"]', '[{ format = "int", bits = [2, 4], granularity = ["tensor", "channel"], clipping = "mse" }, "mx6"]'
    )
    expected = ["int2:tensor:mse", "int2:channel:mse", "int4:tensor:mse", "int4:channel:mse", "mx6"]
    assert loads(text).space.weight == tuple(parse(spec) for spec in expected)


def test_epochs_are_those_of_the_training() -> None:
    assert loads(GOOD + '[evaluate]\nfidelity = "qat"\nepochs = 3\nqat = { lr = 0.1 }\n').evaluate.training == QatConfig(epochs=3, lr=0.1)
    assert loads(GOOD).evaluate.training == QatConfig()


def test_overrides() -> None:
    experiment = loads(GOOD, overrides=["search.trials=7", "search.searcher=tpe", 'space.weight=["mx4","mx6"]', "task.options.seed=3"])
    assert (experiment.search.trials, experiment.search.searcher, experiment.task.options) == (7, "tpe", {"seed": 3})
    assert experiment.space.weight == (parse("mx4"), parse("mx6"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[device]", "[devise]"), r"\[devise\] unknown key.*Did you mean 'device'"),
        (('name = "digits"', ""), r"\[task.name\] is missing"),
        (('"int8:tensor"', '"int0:tensor"'), r"\[space.activation\] 'int0:tensor': 0 bits given"),
        (('["int4:channel"]', "{ bits = 33 }"), "33 bits given; int takes 1 to 16"),
        (('["int4:channel"]', '{ bits = "four" }'), "bits = 'four' given; whole numbers are needed"),
        (('["int4:channel"]', "[]"), "no choice given"),
        (('name = "counts"', 'name = "counts"\nbudget = { weight_bytes = "lots" }'), r"\[device.budget.weight_bytes\] 'lots' given"),
        (('name = "counts"', 'name = "counts"\nbudget = { weight_bytes = -1 }'), "-1 given; write a positive number"),
        (('name = "counts"', 'name = "counts"\nbudget = { weight_bytes = "nan" }'), "'nan' given; write a positive number"),
        (('name = "counts"', 'name = "counts"\nobjectives = ["latency_s"]'), "'error' comes first"),
        (("[device]", "[search]\ntrials = 0\n[device]"), r"\[search.trials\] 0 given; input should be greater"),
        (
            ("[device]", '[evaluate]\nladder = ["qad"]\n[device]'),
            r"\[evaluate.ladder.0\] 'qad' given; input should be 'adaround', 'reconstruct' or 'qat'",
        ),
        (("[device]", "[evaluate]\nreconstruct = { step = 5 }\n[device]"), "reconstruct has no field 'step'; known: steps, batch"),
        (("[device]", "[evaluate]\nreconstruct = { steps = 0 }\n[device]"), "steps = 0 given; 1 or more is needed"),
        (("[device]", '[evaluate]\nladder = ["qat", "qat"]\n[device]'), r"ladder = \['qat', 'qat'\] given; each rung once"),
        (("[device]", '[evaluate]\nladder = ["qat"]\nfidelity = "qat"\n[device]'), "with fidelity = 'qat' every policy is trained anyway"),
        (("[device]", "[evaluate]\nepochs = 3\nqat = { epochs = 2 }\n[device]"), "epochs = 3 and qat.epochs = 2 given; give one"),
        (("[device]", '[[space.rules]]\nfix = "a"\ntie = "b"\n[device]'), "2 of 'fix', 'restrict', 'tie', 'untie' given"),
    ],
)
def test_every_fault_is_named_with_its_place(change: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loads(GOOD.replace(*change))


def test_all_faults_come_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)3 faults.*task.nme.*space.weight.*search.seed"):
        loads(GOOD.replace("[space]", 'nme = "x"\n[space]').replace("int4", "int99") + "[search]\nseed = -1\n")


def test_unreadable_files_and_overrides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the experiment file .*bitfront init"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[task\n")
    with pytest.raises(InputError, match="not TOML"):
        load(tmp_path / "bad.toml")
    with pytest.raises(InputError, match=r"'search.trials' is not of the form section.key=value"):
        loads(GOOD, overrides=["search.trials"])
    with pytest.raises(
        InputError, match=r"\[task\] 'digits' given; this is a section: set its keys, as in task.name=...; known: name, options"
    ):
        loads(GOOD, overrides=["task=digits"])
    with pytest.raises(InputError, match="'name' is a value, not a section"):
        loads(GOOD, overrides=["task.name.x=1"])
