"""Agreement of predictors with a target, against scipy and by hand; records are made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr, studentized_range
from typer.testing import CliRunner

from bench import records, studies
from bench.cli import app
from bench.records.quantities import BANDS
from bench.records.schema import BandLoss, HeldOutLoss, HeldOutSettings, Quality, QualityRequest
from bench.reports import proxy
from bench.reports.predictors import Agreement, agreements, choose
from bench.reports.select import Selection, lines
from bench.studies.cells import cells, cost_request
from bench.training import protocols
from registry.errors import UsageError
from tests.bench import made
from tests.conftest import ROOT

STUDY = studies.load("components")
PUBLISHED = [107.00, 93.48, 89.43, 86.96, 84.64, 79.30, 75.71]
PROXY = protocols.load("proxy-fashion")


def held_out(step: int, level: float, noise: np.ndarray) -> HeldOutLoss:
    """A loss at a level in every band; its 64 groups spread about it by (64,) noise."""
    return HeldOutLoss(
        step=step,
        bands=tuple(
            BandLoss(log_snr=band, share=1 / 6, loss=level, groups=tuple(level + noise - noise.mean()))
            for band in BANDS
        ),
        seconds=step * 0.6,
        eval_seconds=30.0,
    )


def judged(request: QualityRequest, curve: tuple[HeldOutLoss, ...]) -> Quality:
    """A network that is judged by its held-out loss alone."""
    changes = {"scores": {}, "sample_count": None, "reference_count": None, "held_out": curve}
    return made.quality(request).model_copy(update=changes)


def write(folder: Path, levels: dict[int, list[float]], spread: float = 0.0) -> Path:
    """Records of all rows of Table 6 under `proxy-fashion`, at checkpoints 250 to 1,000.

    Args:
        levels: of the held-out loss after the last step, row by row, by seed.
        spread: of the groups of images, drawn anew for every row.
    """
    chance = np.random.default_rng(0)
    for cell in cells(STUDY, PROXY, list(levels)):
        level = levels[cell.seed][[row.label for row in STUDY.rows].index(cell.row.label)]
        curve = tuple(
            held_out(step, level * (1 + (1000 - step) / 1000), spread * chance.standard_normal(64))
            for step in (250, 500, 750, 1000)
        )
        made.put(folder, judged(cell.request, curve), "proxy-fashion")
    return folder


def found(folder: Path) -> dict[tuple[str, int | None], Agreement]:
    every = agreements("components", lines(STUDY, Selection(folder)))
    return {(each.predictor, each.step): each for each in every}


def test_agreement_is_that_of_scipy(tmp_path: Path) -> None:
    levels = [0.9, 0.7, 0.75, 0.5, 0.65, 0.3, 0.3]  # with a tie
    one = found(write(tmp_path, {0: levels}))["held_out", 1000]
    assert one.rho == pytest.approx(spearmanr(levels, PUBLISHED).statistic)
    assert one.tau == pytest.approx(kendalltau(levels, PUBLISHED).statistic)
    wrong = {(1, 2), (3, 4)}  # and the tie decides nothing
    assert (one.correct, one.pairs) == (21 - len(wrong) - 1, 21)
    assert one.seeds == (0,) and one.interval is None and one.significant == 0


def test_every_band_and_checkpoint_is_a_candidate_with_its_computing(tmp_path: Path) -> None:
    every = found(write(tmp_path, {0: PUBLISHED}))
    names = {"held_out", *(f"held_out_{i}" for i in range(1, 7))}
    assert {key for key in every if key[0] in names} == {
        (name, step) for name in names for step in (250, 500, 750, 1000)
    }
    # 0.6 s a step and 30 s of measuring, on the two threads of a made-up record.
    seconds = [every["held_out", step].seconds for step in (250, 500, 750, 1000)]
    assert seconds == pytest.approx([360, 660, 960, 1260])
    assert all(
        each.rho == pytest.approx(1) for key, each in every.items() if key in [(n, 1000) for n in names]
    )


def test_seeds_alone_tell_rows_apart(tmp_path: Path) -> None:
    clear = found(write(tmp_path / "clear", {s: [x + 0.01 * s for x in PUBLISHED] for s in (0, 1, 2)}))
    one = clear["held_out", 1000]
    assert one.interval == pytest.approx((1, 1))
    assert (one.significant_correct, one.significant) == (21, 21)
    assert one.critical_difference == pytest.approx(0, abs=1e-9)
    chance = np.random.default_rng(1)
    noisy = {s: list(np.array(PUBLISHED) + 40 * chance.standard_normal(7)) for s in (0, 1, 2)}
    other = found(write(tmp_path / "noisy", noisy))["held_out", 1000]
    assert other.interval is not None and other.interval[0] < 0.5
    assert other.significant < 21
    # Tukey's honest significant difference of seven rows, without what a seed does to all of them.
    some = {s: list(np.array(PUBLISHED) + 9 * s + 3 * chance.standard_normal(7)) for s in (0, 1, 2)}
    other = found(write(tmp_path / "some", some))["held_out", 1000]
    table = np.array([some[seed] for seed in (0, 1, 2)])
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    least = studentized_range.ppf(0.95, 7, 12) * np.sqrt((residuals**2).sum() / 12 / 3)
    assert other.critical_difference == pytest.approx(least / table.mean(), rel=1e-6)
    apart = np.abs(np.subtract.outer(table.mean(0), table.mean(0))) > least
    assert 0 < other.significant == apart.sum() / 2 < 21


def test_a_cost_predicts_that_more_is_better(tmp_path: Path) -> None:
    for row, size in zip(STUDY.rows, (1, 2, 3, 4, 5, 6, 7), strict=True):
        cost = made.cost(cost_request(row)).model_copy(update={"parameters": size, "paper_gflops": 1 / size})
        made.put(tmp_path, cost)
    every = found(tmp_path)
    assert every["params", None].rho == pytest.approx(1) and every["gflops", None].rho == pytest.approx(-1)


def test_noise_prediction_and_flow_are_never_put_in_one_order(tmp_path: Path) -> None:
    study = studies.load("leaderboard")
    networks = [row for row in study.rows if row.model]
    for size, row in enumerate(networks, 1):
        if request := cost_request(row):
            made.put(tmp_path, made.cost(request, parameters=size))
    every = agreements("leaderboard", lines(study, Selection(tmp_path)))
    sizes = {each.study: each.rows for each in every if each.predictor == "params"}
    assert sizes == {"leaderboard (noise prediction)": 14, "leaderboard (flow)": 4}  # none of DiG's
    for cell in cells(study, PROXY, [0]):
        result = made.quality(cell.request).model_copy(
            update={
                "held_out": (
                    held_out(1000, {"dit-s-2": 4.0, "dic-s": 3.0}.get(cell.model, 1.0), np.zeros(64)),
                )
            }
        )
        made.put(tmp_path, result, "proxy-fashion")
    every = agreements("leaderboard", lines(study, Selection(tmp_path)))
    sizes = {each.study: each.rows for each in every if each.predictor == "params"}
    # Beside a predictor a cost is judged on the same rows.
    assert sizes == {"leaderboard (noise prediction)": 4, "leaderboard (flow)": 4}
    (one,) = [each for each in every if each.predictor == "held_out"]
    assert (one.study, one.rows, one.correct) == ("leaderboard (noise prediction)", 4, 5)
    shown = proxy.agreement_table(proxy.last_checkpoints(every))
    assert shown.columns[0].heading == "Study" and {row[0].text for row in shown.rows} == set(sizes)
    agreements("leaderboard", lines(study, Selection(tmp_path)), "inception_score")
    with pytest.raises(UsageError, match="has 0 rows with a published Prec"):
        agreements("leaderboard", lines(study, Selection(tmp_path)), "precision")


STEPS = (200, 400, 800)


def write_losses(folder: Path, losses: np.ndarray, errors: np.ndarray | None = None) -> Path:
    """Records of Table 6 with any losses, whose two halves of the groups lie 10% of them above and below.

    Args:
        losses: (seeds, rows, checkpoints, bands).
        errors: in training, (seeds, rows, checkpoints).
    """
    labels = [row.label for row in STUDY.rows]
    for cell in cells(STUDY, PROXY, range(len(losses))):
        at = cell.seed, labels.index(cell.row.label)
        curve = tuple(
            HeldOutLoss(
                step=step,
                bands=tuple(
                    BandLoss(
                        log_snr=band, share=1 / 6, loss=loss, groups=(*[0.9 * loss] * 32, *[1.1 * loss] * 32)
                    )
                    for band, loss in zip(BANDS, of_bands, strict=True)
                ),
                training_error=None if errors is None else errors[*at, number],
                seconds=step * 0.5,
                eval_seconds=30.0,
            )
            for number, (step, of_bands) in enumerate(zip(STEPS, losses[at].tolist(), strict=True))
        )
        made.put(folder, judged(cell.request, curve), "proxy-fashion")
    return folder


def test_training_error_is_a_predictor_at_each_checkpoint(tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    losses, errors = chance.uniform(1, 2, (1, 7, 3, 6)), chance.uniform(1, 2, (1, 7, 3))
    every = found(write_losses(tmp_path / "with", losses, errors))
    for number, step in enumerate(STEPS):
        one = every["training_error", step]
        assert one.rho == pytest.approx(spearmanr(errors[0, :, number], PUBLISHED).statistic)
        assert one.seconds == pytest.approx(2 * 0.5 * step)  # two threads; nothing is measured for it
    assert "training_error" not in {name for name, _ in found(write_losses(tmp_path / "without", losses))}


def test_held_out_loss_is_averaged_over_two_checkpoints(tmp_path: Path) -> None:
    losses = np.random.default_rng(3).uniform(1, 2, (1, 7, 3, 6))
    every = found(write_losses(tmp_path, losses))
    whole = losses[0].mean(axis=2)  # all bands have the same share
    for number in (1, 2):
        one = every["held_out_averaged", STEPS[number]]
        means = (whole[:, number - 1] + whole[:, number]) / 2
        assert one.rho == pytest.approx(spearmanr(means, PUBLISHED).statistic)
        assert one.seconds == pytest.approx(2 * (0.5 * STEPS[number] + 2 * 30))
    assert ("held_out_averaged", STEPS[0]) not in every


def test_bands_are_standardised_over_the_rows_before_their_mean_is_taken(tmp_path: Path) -> None:
    # The first band is by far the largest, so that the whole loss is ordered by it alone.
    scale = np.array([1000, 1, 1, 0.1, 0.01, 10])
    losses = np.random.default_rng(4).uniform(1, 2, (3, 7, 3, 6)) * scale
    every = found(write_losses(tmp_path, losses))
    for number, step in enumerate(STEPS):
        of_bands = losses[:, :, number].mean(axis=0)  # rows × bands
        standard = (of_bands - of_bands.mean(axis=0)) / of_bands.std(axis=0, ddof=1)
        one = every["held_out_standardised", step]
        assert one.rho == pytest.approx(spearmanr(standard.mean(axis=1), PUBLISHED).statistic)
        assert one.rho != pytest.approx(every["held_out", step].rho)
        assert one.seeds == (0, 1, 2) and one.critical_difference is None
        assert one.seconds == pytest.approx(every["held_out", step].seconds)


def test_pairing_removes_what_a_seed_does_to_all_rows(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    common, own = 3 * chance.standard_normal((4, 1)), chance.standard_normal((4, 7))
    table = 100 + np.arange(7) + common + own  # seeds × rows
    losses = np.broadcast_to(table[:, :, None, None], (4, 7, 3, 6))
    one = found(write_losses(tmp_path / "some", losses))["held_out", 800]
    # Mean variance of the differences of two rows, with the same seed and with seeds of their own.
    pairs = [(i, j) for i in range(7) for j in range(i)]
    paired = np.mean([np.var(table[:, i] - table[:, j], ddof=1) for i, j in pairs])
    unpaired = 2 * np.mean(np.var(table, axis=0, ddof=1))
    assert one.shared_seed_variance == pytest.approx(1 - paired / unpaired)
    assert 0.5 < one.shared_seed_variance < 1
    single = found(write_losses(tmp_path / "one", losses[:1]))["held_out", 800]
    assert single.shared_seed_variance is None


def test_the_judge_s_rows_are_told_at_every_checkpoint(tmp_path: Path) -> None:
    study, protocol = studies.load("dico-components"), protocols.load("proxy-cifar-32-v")
    for number, cell in enumerate(cells(study, protocol, [0])):
        loss = held_out(200, 1 + number, np.zeros(64)).model_copy(update={"training_error": 2.0 + number})
        curve = tuple(loss.model_copy(update={"step": step}) for step in (200, 400, 600, 800))
        made.put(tmp_path, judged(cell.request, curve), "proxy-cifar-32-v")
    selection = Selection(tmp_path)
    compared = proxy.compare({name: lines(studies.load(name), selection) for name in proxy.STUDIES})
    section = proxy.page(compared, None).sections[-1]
    assert section.title == "Every checkpoint: DiCo components" and section.table
    told = [tuple(entry.text for entry in row[:3]) for row in section.table.rows]
    names = ("Held-out loss", "Mean of standardised bands", "Training error")
    for step in ("200", "400", "600", "800"):
        assert {(name, "proxy-cifar-32-v", step) for name in names} <= {*told}
    assert ("Held-out loss, mean of 2 checkpoints", "proxy-cifar-32-v", "800") in told
    assert all(
        len(each.seeds) == 1 and each.rows == 13 for each in compared["DiCo components"] if each.protocol
    )
    (tmp_path / "none").mkdir()
    selection = Selection(tmp_path / "none")
    empty = proxy.compare({name: lines(studies.load(name), selection) for name in proxy.STUDIES})
    assert not any(
        section.title.startswith("Every checkpoint") for section in proxy.page(empty, None).sections
    )


def test_a_row_s_own_figure_is_a_target(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    rows = "".join(
        f'[[rows]]\nlabel = "{i}"\nbackbone = "udit-t"\noverrides = {{ hidden_size = {48 * i} }}\n'
        f"known = {{ fid = {10 / i} }}\n"
        for i in (1, 2, 3)
    )
    file.write_text(f'title = "t"\nprotocol = "proxy-fashion"\n{rows}')
    own = studies.load(file)
    for cell, level in zip(cells(own, PROXY, [0]), (3.0, 2.0, 1.0), strict=True):
        curve = (held_out(1000, level, np.zeros(64)),)
        result = made.quality(cell.request).model_copy(update={"held_out": curve})
        made.put(tmp_path, result, "proxy-fashion")
    every = agreements("own", lines(own, Selection(tmp_path)))
    assert next(each for each in every if each.predictor == "held_out").rho == pytest.approx(1)
    file.write_text(file.read_text().replace("fid =", "fids ="))
    with pytest.raises(UsageError, match="known: there is no score 'fids'"):
        studies.load(file)


def test_a_user_s_file_is_not_called_by_the_number_of_a_published_table(tmp_path: Path) -> None:
    results = write(tmp_path / "results", {0: PUBLISHED})
    for size, row in enumerate(STUDY.rows, 1):
        made.put(results, made.cost(cost_request(row), parameters=size))
    (tmp_path / "components.toml").write_bytes(Path(studies.__path__[0], "components.toml").read_bytes())
    for argument, name in (("components", "Table 6"), (str(tmp_path / "components.toml"), "components.toml")):
        told = CliRunner().invoke(app, ["proxy", argument, "--results", str(results)])
        assert told.exit_code == 0
        assert f"parameters alone order {name} at ρ = 1.00" in " ".join(told.output.split())


def test_a_study_without_known_figures_is_refused(tmp_path: Path) -> None:
    backbones = studies.load("backbones")
    with pytest.raises(UsageError, match="has 0 rows with a published FID; an order takes three"):
        agreements("backbones", lines(backbones, Selection(write(tmp_path, {0: PUBLISHED}))))
    with pytest.raises(UsageError, match="unknown target 'loss'"):
        agreements("components", lines(STUDY, Selection(tmp_path)), "loss")


def test_pairs_of_rows_that_were_chosen_on_do_not_count_on_another_study(tmp_path: Path) -> None:
    folder = write(tmp_path, {0: PUBLISHED})
    for cell in cells(studies.load("toy"), PROXY, [0]):
        curve = (held_out(1000, 100.0, np.zeros(64)),)
        if not (folder / cell.file).exists():  # DiT-S/4 alone: Table 6 has the other two
            made.put(folder, judged(cell.request, curve), "proxy-fashion")
    selection = Selection(folder)
    toy, first = lines(studies.load("toy"), selection), lines(STUDY, selection)
    for chosen_on, pairs in (([], 3), (first, 2)):
        every = agreements("toy", toy, chosen_on=chosen_on)
        (one,) = [each for each in every if (each.predictor, each.step) == ("held_out", 1000)]
        assert (one.correct, one.pairs, one.rows) == (pairs, pairs, 3)


def agreement(study: str, rho: float, **changes: Any) -> Agreement:
    values: dict[str, Any] = {
        "protocol": "p", "predictor": "held_out", "step": 4, "rows": 7, "seeds": (0, 1), "tau": rho,
        "interval": (0.0, 1.0), "correct": 2, "pairs": 3, "significant_correct": 0, "significant": 0,
        "critical_difference": 0.0123, "shared_seed_variance": None, "seconds": 600.0,
    }  # fmt: skip
    return Agreement(study=study, rho=rho, **values | changes)


def test_what_is_chosen_on_one_study_is_judged_on_the_others() -> None:
    first = [agreement("a", 0.5), agreement("a", 0.9, step=2), agreement("a", 0.9, step=3, seconds=60.0)]
    second = [agreement("b", 0.1, step=3, correct=1), agreement("b", 1.0, step=2)]
    baseline = [agreement("b", 0.2, protocol="", predictor="gflops", step=None, seconds=0.0, correct=3)]
    choice = choose([first, second + baseline])
    assert choice is not None
    assert choice.best is first[2] and len(choice.candidates) == 3  # of equals the cheaper
    assert choice.held_back == [second[0]] and choice.baselines == baseline and choice.rivals == []
    texts = " ".join(proxy.answer(choice, "FID"))
    assert "No protocol measured here is reliable" in texts  # for its interval begins at 0
    assert "at 1 core-minutes per row and seed" in texts
    assert "differences in held-out loss above 1.23% of the mean are significant: 0 of 3 pairs." in texts
    assert 'columns = ["held_out"]' in texts and "--protocol p" in texts
    assert "(b) it puts 1 of 3 pairs in the published order (GFLOPs alone 3 of 3)" in texts
    assert "other families" not in texts
    sure = choose([[agreement("a", 0.95, interval=(0.8, 1.0))], []])
    assert proxy.answer(sure, "FID")[0].startswith("Use held-out loss after 4 steps of p")
    assert choose([[]]) is None


def test_the_book_gives_the_figures_of_the_report() -> None:
    page, report = ((ROOT / place).read_text("utf-8") for place in (
        "docs/explanation/small-protocols.md", "reports/proxy.md"
    ))  # fmt: skip
    figures = re.findall(r"\d+ of \d+", page.partition("| Protocol")[0])
    assert len(figures) == 7 and [figure for figure in figures if figure not in report] == []


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 1.0), "95% interval 0.10 to 1.00; GFLOPs alone 1 of 3). This is evidence that it orders"),
        ((-0.1, 1.0), "95% interval −0.10 to 1.00; GFLOPs alone 1 of 3). This is no evidence that it orders"),
        (None, "one seed, no interval; GFLOPs alone 1 of 3). This is no evidence that it orders networks"),
    ],
)
def test_a_protocol_orders_other_families_only_where_the_interval_says_so(interval, words) -> None:
    first = [agreement("components", 0.9), agreement("components", 0.5, protocol="q")]
    judged = [
        agreement(proxy.JUDGE, 0.5, protocol="q", interval=interval),
        agreement(proxy.JUDGE, 0.2, protocol="", predictor="gflops", step=None, seconds=0.0, correct=1),
    ]
    choice = choose([first, judged])
    assert choice is not None
    (text,) = (text for text in proxy.answer(choice, "FID") if "other families" in text)
    assert text.startswith(
        "The best predictor of q on Table 6 is held-out loss after 4 steps. On 7 rows of dico-"
    )
    assert words in text and "puts 2 of 3 pairs in the published order (ρ = 0.50, " in text


def test_the_surest_is_chosen_and_each_other_protocol_stands_beside_it() -> None:
    one_seed = agreement("a", 0.99, protocol="q", interval=None)
    first = [agreement("a", 0.9), agreement("a", 0.6, step=2, interval=(0.2, 1.0)), one_seed]
    worse = agreement("a", 0.1, protocol="q", step=2)  # with an interval from 0 on
    other = [agreement("b", 0.3, protocol=name, step=step) for name in "pq" for step in (2, 4)]
    choice = choose([[*first, worse], other])
    assert choice is not None and choice.best is first[1]
    assert choice.held_back == [other[0]] and choice.rivals == [other[2]]


def test_the_last_checkpoint_of_each_predictor_is_shown(tmp_path: Path) -> None:
    every = agreements("components", lines(STUDY, Selection(write(tmp_path, {0: PUBLISHED}))))
    shown = proxy.last_checkpoints(every)
    assert {each.step for each in shown if each.protocol} == {1000}
    assert len({each.predictor for each in shown}) == len(shown)


def test_made_up_quality_is_of_the_kind_that_is_read(tmp_path: Path) -> None:
    record = records.read(write(tmp_path, {0: PUBLISHED}))[0]
    assert isinstance(record.result, Quality)
    assert record.result.request.held_out == HeldOutSettings(images=512)
    whole = record.result.held_out[-1]
    assert whole.loss == pytest.approx(np.mean([b.loss for b in whole.bands]))
