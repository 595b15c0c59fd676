package publish

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/loki"
)

// Reader reads what a Loki has.
type Reader interface {
	Range(ctx context.Context, query string, from, to time.Time) iter.Seq2[loki.Entry, error]
}

// maxReadBacks is how often it is tried to read back what was said.
const maxReadBacks = 3

// ReadBack has the sink read, before it pushes anything more, which findings
// its Loki has from a time on: those are not pushed again (rule 28). It is for a
// start without kept state and for a past that is read again, which may say the
// same finding in another form.
func (s *LokiSink) ReadBack(from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.Own == nil {
		return
	}
	if s.readFrom.IsZero() || from.Before(s.readFrom) {
		s.readFrom = from
	}
	s.unread, s.tries = true, 0
}

// readBack reads what the server has, where it shall, and tells whether the
// sink may push. Pushing without is harmless but for findings in two forms, so
// it does not wait for ever for a server that takes findings and shows none.
func (s *LokiSink) readBack(ctx context.Context) bool {
	s.mu.Lock()
	unread, from := s.unread, s.readFrom
	s.unread = false
	if unread {
		s.tries++
	}
	tries := s.tries
	s.mu.Unlock()
	if !unread {
		return true
	}
	err := s.readOwn(ctx, from)
	switch {
	case err == nil:
		s.o.Log.Info("read back what was said before", "sink", s.o.Name, "findings", len(s.known))
		return true
	case ctx.Err() == nil && (!temporary(err) || tries >= maxReadBacks):
		s.o.Log.Warn("what was said before cannot be read; findings of the look-back that are there in another form may be there twice", "sink", s.o.Name, "err", err)
		return true
	}
	s.o.Log.Warn("what was said before cannot be read; trying again", "sink", s.o.Name, "err", err)
	s.mu.Lock()
	s.unread = true
	s.mu.Unlock()
	return false
}

func temporary(err error) bool {
	e, ok := errors.AsType[*loki.Error](err)
	return ok && e.Temporary()
}

// ownQuery selects the streams of this sink and makes of each line its id.
func (s *LokiSink) ownQuery() string {
	labels := s.labels("")
	delete(labels, "host")
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name + "=" + strconv.Quote(labels[name]))
	}
	return fmt.Sprintf(`{%s} | line_format "{{.finding_id}}"`, b.String())
}

// readOwn reads the ids of all findings, sorted and cut to 64 bits: a million
// of them takes 8 MB, and holds two equal ones once in 37 million times. Of
// the ranking it notes how far it was said, and who has become what.
func (s *LokiSink) readOwn(ctx context.Context, from time.Time) error {
	var ids []uint64
	ranked := map[string]time.Time{}
	for e, err := range s.o.Own.Range(ctx, s.ownQuery(), from, time.Now().Add(time.Hour)) {
		if err != nil {
			return err
		}
		if id, ok := shortID(e.Line); ok {
			ids = append(ids, id)
		}
		if e.Metadata["finding"] != string(FindingOffender) {
			continue
		}
		if cause := e.Metadata["cause"]; cause != stateRanking {
			ids = append(ids, becameID(e.Metadata["source"], e.Metadata["ip"], cause))
		} else if source := e.Metadata["source"]; e.Time.After(ranked[source]) {
			ranked[source] = e.Time
		}
	}
	slices.Sort(ids)
	s.known, s.ranked = slices.Compact(ids), ranked
	return nil
}

func shortID(id string) (uint64, bool) {
	if len(id) < 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(id[:16], 16, 64)
	return n, err == nil
}

// becameID names that an id has become a repeat or persistent offender, which
// with a shorter look-back it does at a later ban.
func becameID(source, id, state string) uint64 {
	n, _ := shortID(FindingID(source, &correlate.Finding{Kind: FindingOffender, Jail: state, ID: id}))
	return n
}

// isKnown tells whether a finding, or the same event as another finding, was
// read back. The ranking is said in its order, so an older one was said, with
// the counts of that look-back.
func (s *LokiSink) isKnown(q *queued) bool {
	if q.ranking && q.entry.Time.Before(s.ranked[q.source]) {
		return true
	}
	for _, id := range q.ids {
		if _, ok := slices.BinarySearch(s.known, id); ok {
			return true
		}
	}
	return false
}

// idsOf gives the short ids of a finding. A plain ban of 0.8 or 0.9 is a
// restore or the start of a ban, whichever the log before it says, which a
// shorter look-back does not have: then the same line of the log would be said
// as the other.
func (s *LokiSink) idsOf(source string, f *correlate.Finding, id string) []uint64 {
	ids := make([]uint64, 0, 2)
	if n, ok := shortID(id); ok {
		ids = append(ids, n)
	}
	other := *f
	switch {
	case f.Kind == correlate.FindingRestore:
		other.Kind = correlate.FindingBan
	case f.Kind == correlate.FindingBan && f.Ban.EndedBy == correlate.EndedOpen:
		other.Kind = correlate.FindingRestore
	default:
		return ids
	}
	if n, ok := shortID(s.findingID(source, &other)); ok {
		ids = append(ids, n)
	}
	return ids
}
