"""The tables of receipts.db, and what makes a file of an older layout one of the newest."""

LAYOUT = 6  # a file of another layout is folded anew, but one of 2 to 5 is taken on

_SCHEMA = """
CREATE TABLE place (topic TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE votes (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, rater TEXT NOT NULL,
    kind TEXT NOT NULL, source TEXT NOT NULL, revision INTEGER NOT NULL, first_at REAL NOT NULL,
    at REAL NOT NULL, revisions INTEGER NOT NULL, retracted INTEGER NOT NULL, targets BLOB NOT NULL);
CREATE TABLE uses (
    id TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER, revision INTEGER NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (id, since)) WITHOUT ROWID;
CREATE INDEX uses_by_update ON uses (state, since);
CREATE TABLE updates (number INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE completions (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, version TEXT NOT NULL, arm TEXT NOT NULL, role TEXT NOT NULL,
    prompt_hash TEXT, choices INTEGER NOT NULL, at REAL NOT NULL, external_id TEXT, episode_id TEXT,
    user TEXT NOT NULL);
CREATE INDEX by_user ON completions (tenant, user);
CREATE INDEX by_external ON completions (tenant, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX by_episode ON completions (tenant, episode_id) WHERE episode_id IS NOT NULL;
CREATE TABLE versions (
    version TEXT PRIMARY KEY, updates INTEGER, at REAL NOT NULL,
    status TEXT NOT NULL, status_at REAL NOT NULL);
CREATE TABLE live (one INTEGER PRIMARY KEY CHECK (one = 1), version TEXT NOT NULL, number INTEGER NOT NULL);
"""
_NEW_IN_3 = """
ALTER TABLE votes ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN parent TEXT;
CREATE INDEX by_rater ON votes (tenant, rater, kind)
"""
_NEW_IN_4 = "ALTER TABLE live ADD COLUMN fence INTEGER NOT NULL DEFAULT 0"
_NEW_IN_5 = """
ALTER TABLE votes ADD COLUMN refused TEXT;
CREATE INDEX by_time ON votes (first_at)
"""
_NEW_IN_6 = "ALTER TABLE versions ADD COLUMN live_at REAL"  # when it was live first
_PARTS = {0: _SCHEMA, 2: _NEW_IN_3, 3: _NEW_IN_4, 4: _NEW_IN_5, 5: _NEW_IN_6}
STEPS = {old: [part for at, part in _PARTS.items() if at >= old] for old in (*_PARTS, LAYOUT)}
"""What makes a file of each layout one of the newest."""
