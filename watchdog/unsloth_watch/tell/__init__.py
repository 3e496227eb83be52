"""Events, records, reports, redaction: everything that is written for people and their tools."""
