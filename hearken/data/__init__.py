"""Data of a service: imports, exports, models' votes, demonstrations, and the audit of all votes."""
