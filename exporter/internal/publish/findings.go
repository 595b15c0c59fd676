package publish

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Job is the `job` label of everything that we write to Loki. Streams that bear
// it are never read as fail2ban's (rule 27).
const Job = "fail2ban-loki-exporter"

func (s *LokiSink) labels(host string) map[string]string {
	l := make(map[string]string, len(s.o.Labels)+2)
	maps.Copy(l, s.o.Labels)
	l["job"], l["host"] = Job, valid(host)
	return l
}

// entry makes the entry of a finding and gives the finding's id.
func (s *LokiSink) entry(source string, f *correlate.Finding) (e loki.PushEntry, id string) {
	id = s.findingID(source, f)
	e = loki.PushEntry{Time: f.Time, Line: s.line(source, f, id)}
	e.Metadata = s.metadata(source, [][2]string{
		{"finding", string(f.Kind)}, {"finding_id", id}, {"jail", f.Jail}, {"ip", s.o.Redact.ID(f.ID)}, {"cause", findingCause(f)},
	})
	return e, id
}

func (s *LokiSink) metadata(source string, pairs [][2]string) (out []loki.Label) {
	if s.o.NameSource {
		pairs = append(pairs, [2]string{"source", source})
	}
	for _, p := range pairs {
		if p[1] != "" {
			out = append(out, loki.Label{Name: p[0], Value: limited(valid(p[1]))})
		}
	}
	return out
}

// FindingOffender is the kind of what is said of the ranking.
const FindingOffender correlate.FindingKind = "offender"

// stateRanking is the state of what is said of the ranking at a full hour.
const stateRanking = "ranking"

// metadataOf gives a value of an entry's structured metadata.
func metadataOf(e *loki.PushEntry, name string) string {
	for _, l := range e.Metadata {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// rankingEntry is an id of the ranking. Whether and where it is banned now is
// left empty: that would depend on when it is said, and the same finding must
// always be the same bytes.
func (s *LokiSink) rankingEntry(source string, f *offender.Finding) (e loki.PushEntry, id string) {
	row := f.Row
	row.BannedNow, row.BannedWhere = false, nil
	state := cmp.Or(f.Reached.String(), stateRanking)
	b := append(make([]byte, 0, 512), "finding="+FindingOffender...)
	b = appendLogfmt(b, "state", state)
	t := Table{Kind: KindOffenders, NameSource: s.o.NameSource}
	names := t.columns()
	for i, v := range t.values(s.o.Redact.row(KindOffenders, OffenderRow(source, &row))) {
		if names[i] == "banned_now" {
			v = Value{}
		}
		b = appendLogfmt(b, names[i], v.s)
	}
	id = s.findingID(source, &correlate.Finding{Kind: FindingOffender, ID: row.ID, Time: f.At})
	return loki.PushEntry{Time: f.At, Line: s.told(b, id), Metadata: s.metadata(source, [][2]string{
		{"finding", string(FindingOffender)}, {"finding_id", id}, {"ip", s.o.Redact.ID(row.ID)}, {"cause", state},
	})}, id
}

// line is the finding as logfmt: its kind, then the columns of its row.
func (s *LokiSink) line(source string, f *correlate.Finding, id string) string {
	kind, row := FindingRow(source, f)
	row = s.o.Redact.row(kind, row)
	b := append(make([]byte, 0, 512), "finding="...)
	b = append(b, f.Kind...)
	open := f.Kind == correlate.FindingBan && f.Ban.EndedBy == correlate.EndedOpen
	if open {
		b = appendLogfmt(b, "state", "open")
	}
	t := Table{Kind: kind, NameSource: s.o.NameSource}
	names := t.columns()
	for i, v := range t.values(row) {
		if open && slices.Contains(growing, names[i]) {
			v = Value{}
		}
		b = appendLogfmt(b, names[i], v.s)
	}
	return s.told(b, id)
}

// told ends a line. Those of two addresses of one network may be equal once
// these are cut, and of equal ones Loki keeps one: then the line has the id.
func (s *LokiSink) told(line []byte, id string) string {
	if s.o.Redact != nil {
		line = appendLogfmt(line, "finding_id", id)
	}
	return string(line)
}

// findingID is the finding's id. Where addresses are hidden it is keyed too:
// all else that it is made of is known, and addresses are soon tried out.
func (s *LokiSink) findingID(source string, f *correlate.Finding) string {
	id := FindingID(source, f)
	if s.o.Redact == nil {
		return id
	}
	return hex.EncodeToString(s.o.Redact.sum(id)[:16])
}

// growing are the columns of an open ban that say how long so far: they depend
// on when it is said, and the same finding must always be the same bytes.
var growing = []string{"banned_seconds", "gap_seconds"}

// findingCause is why it happened: a restore's cause, a ban's origin, a
// restart's kind, what had ended the ban before a re-offence.
func findingCause(f *correlate.Finding) string {
	switch {
	case f.Restore != nil:
		return string(f.Restore.Cause)
	case f.Ban != nil:
		return string(f.Ban.Origin)
	case f.Restart != nil:
		return f.Restart.Kind
	case f.Reoffence != nil:
		return f.Reoffence.PreviousEndedBy
	}
	return ""
}

// FindingID names a finding by what makes it one: kind, source, host, jail, id
// and time, hashed to 128 bits in hexadecimal.
func FindingID(source string, f *correlate.Finding) string {
	h := sha256.New()
	for _, s := range []string{string(f.Kind), source, f.Host, f.Jail, f.ID} {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	h.Write(binary.AppendVarint(nil, f.Time.UnixNano()))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// maxMetadata keeps an attacker's endless id from getting its own finding
// refused: Loki takes 64 KB of metadata an entry. The line has it in full.
const maxMetadata = 1024

func limited(s string) string {
	if len(s) <= maxMetadata {
		return s
	}
	n := maxMetadata
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// entrySize is about what an entry takes in a push.
func entrySize(e *loki.PushEntry) int {
	n := len(e.Line) + 16
	for _, l := range e.Metadata {
		n += len(l.Name) + len(l.Value) + 6
	}
	return n
}
