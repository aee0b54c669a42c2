"""Tables of records that tell a held-out loss and no scores of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import studies
from bench.metrics.scores import MEASURED
from bench.records import read
from bench.records.schema import Quality
from bench.reports import leaderboard, tables
from bench.reports.differences import differences
from bench.reports.findings import by_soundness, findings, phrase
from bench.reports.record import tables as record_tables
from bench.reports.render import markdown
from bench.reports.select import Selection, lines, settings
from bench.reports.site import pages
from bench.studies.cells import cells as cells_of
from bench.studies.cells import has_scores, known, missing
from bench.studies.staleness import stale_records
from bench.training import protocols
from tests.bench import made
from tests.bench.reports.test_predictors import PROXY, PUBLISHED, STUDY, held_out, judged, write


def test_a_held_out_loss_alone_makes_a_table(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    levels = {
        seed: [value / 1000 + 1e-5 * chance.standard_normal() for value in PUBLISHED] for seed in (0, 1)
    }
    rows = lines(STUDY, Selection(write(tmp_path, levels)))
    (setting,) = settings(rows)
    assert (setting.extractor, setting.sampler, setting.held_out) == (None, None, 512)
    text = markdown.page(tables.page(STUDY, rows, None))
    assert "Quality, protocol proxy-fashion" in text and "Held-out loss↓" in text
    assert "on 512 images that were not trained on" in text
    assert "Extractor" not in text and "guidance" not in text.split("## Quality")[1]
    assert f"{np.mean([levels[0][0], levels[1][0]]):.5f}" in text
    assert (
        "Spearman's ρ between held-out loss here and published FID: 1.00 (7 rows, 95% interval 1.00 to 1.00"
        in text
    )
    assert "the 2 seeds that all rows have: 21 of 21 pairs, all in the published order." in text


def test_levels_that_a_schedule_lacks_are_told_and_share_no_table(tmp_path: Path) -> None:
    folder = write(tmp_path, {0: PUBLISHED})
    for record in known(folder).values():
        if record.request.model == "dit-unet":
            assert isinstance(record.result, Quality)
            curve = record.result.held_out
            ends = curve[-1].bands[0].model_copy(update={"log_snr": (4.0, 7.07)}), *curve[-1].bands[1:]
            changed = curve[-1].model_copy(update={"bands": ends})
            made.put(folder, record.result.model_copy(update={"held_out": (*curve[:-1], changed)}),
                     "proxy-fashion")  # fmt: skip
    rows = lines(STUDY, Selection(folder))
    assert [each.log_snr for each in settings(rows)] == [(None, 7.07), (None, None)]
    assert [each.log_snr for each in by_soundness(rows, settings(rows))] == [(None, None), (None, 7.07)]
    text = markdown.page(tables.page(STUDY, rows, None))
    assert text.count("DDPM's linear schedule.") == 1
    assert text.count("linear schedule, restricted to the range of the β schedule, ln SNR below 7.07.") == 1


def test_a_study_s_other_columns_make_nothing_missing(tmp_path: Path) -> None:
    records = known(write(tmp_path, {0: PUBLISHED}))
    assert "fid" in STUDY.columns
    assert all(has_scores(record, STUDY, PROXY) for record in records.values())
    cells = cells_of(STUDY, PROXY, [0])
    assert not missing(cells, records)
    assert stale_records(records, cells, STUDY, {}) == {}


def test_a_band_is_a_column_where_a_study_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'title = "t"\nprotocol = "proxy-fashion"\ncolumns = ["held_out_3"]\n'
        '[[rows]]\npublished = "6/DiT-UNet"\n[[rows]]\npublished = "6/DiT-UNet (Slim)"\n'
    )
    own = studies.load(file)
    rows = lines(own, Selection(write(tmp_path, {0: PUBLISHED})))
    (setting,) = settings(rows)
    columns = tables.score_columns(own, rows, setting)
    assert [filled.column.heading for filled in columns.values()] == ["Held-out loss↓", "ln SNR 0…2↓"]
    assert [entry.text for entry in columns["held_out_3"].entries] == ["93.48000", "107.00000"]


def test_rows_are_judged_by_the_band_that_the_protocol_names(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    protocol = protocols.load("proxy-cifar-32")
    (judge,) = protocol.evaluation.judges
    band = int(judge.removeprefix("held_out_")) - 1
    named = phrase(MEASURED[judge])
    published = dict(zip([row.label for row in STUDY.rows], PUBLISHED, strict=True))
    for cell in cells_of(STUDY, protocol, (0, 1)):
        level = published[cell.row.label] / 1000 + 1e-5 * chance.standard_normal()
        loss = held_out(cell.step, level, np.zeros(64))
        worse = (each.model_copy(update={"loss": 1 - each.loss}) for each in loss.bands)  # in reverse order
        bands = tuple(loss.bands[i] if i == band else each for i, each in enumerate(worse))
        curve = (loss.model_copy(update={"bands": bands}),)
        made.put(tmp_path, judged(cell.request, curve), protocol.name)
    rows = lines(STUDY, Selection(tmp_path))
    (setting,) = settings(rows)
    columns = tables.score_columns(STUDY, rows, setting)
    assert list(columns) == ["held_out", judge]
    first = {entry.text for filled in columns.values() for entry in filled.entries if entry.best}
    assert first == {columns["held_out"].entries[0].text, columns[judge].entries[-1].text}
    (text,) = findings(rows, setting)
    assert text.startswith(f"Differences in {named} above") and "published FID: 1.00 (7 rows" in text
    assert "21 of 21 pairs, all in the published order." in text
    assert "−1.00" not in text  # the order by the whole
    assert (
        f"{STUDY.rows[-1].label} (" in text and f"the lowest {named}, significantly better than all" in text
    )
    (group,) = leaderboard.groups([(STUDY, rows)])[-1:]
    assert [standing.rank for standing in group.standings] == [*range(1, 8)]
    assert group.standings[0].line.row is STUDY.rows[-1]
    shown = pages.scores([], [(protocol.name, line, setting) for line in rows]).columns
    assert columns[judge].column.heading in [column.heading for column in shown]


def test_a_record_shows_its_curve(tmp_path: Path) -> None:
    record = read(write(tmp_path, {0: PUBLISHED}))[0]
    curve = record_tables(record)[1]
    assert [column.heading for column in curve.columns][:3] == ["Step", "Held-out loss↓", "ln SNR > 4↓"]
    assert [row[0].text for row in curve.rows] == ["250", "500", "750", "1,000"]
    assert not any("held_out" in entry.text for row in record_tables(record)[0].rows for entry in row)


def test_a_larger_loss_is_worse(tmp_path: Path) -> None:
    doubled = [(2 + 1e-6 * seed) * PUBLISHED[0] for seed in range(3)]
    before = write(tmp_path / "before", dict.fromkeys(range(3), PUBLISHED))
    after = write(tmp_path / "after", {i: [loss, *PUBLISHED[1:]] for i, loss in enumerate(doubled)})
    found = differences(before, after)
    assert found.compared == 21
    assert [each.quantity.name for each in found.regressions] == [
        "held_out", *(f"held_out_{band}" for band in range(1, 7)),
    ]  # fmt: skip
    assert not differences(after, before).regressions
