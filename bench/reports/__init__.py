"""Reports: tables and pictures from studies and records. Nothing here imports torch.

    from bench.reports import report, site

    report.write("reports", report.files("results", ["md", "csv"]).items())
    report.check("reports", report.files("results", ["md", "csv"]).items())  # [] where the files are current
    report.write("site", site.files("results"))                              # the same to click on

A row and its records become a `Line` (`select`), lines a `Table` (`tables`), and a table is rendered in many
ways (`render`).
"""
