"""What a run leaves behind: report.png, report.md, report.json."""
