package loki

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// decoder reads one answer.
type decoder struct {
	streams *streamTable
	extras  map[string]map[string]string // structured metadata by its text
	entries []Entry
	size    int64  // bytes that the entries hold
	most    int64  // that they may hold; 0 for any number
	scratch []byte // of one entry's metadata
}

// entryBytes is what an entry holds beside its line.
const entryBytes = 64

// add takes an entry, unless there is no room for it.
func (d *decoder) add(e Entry) error {
	d.entries = append(d.entries, e)
	d.size += int64(len(e.Line)) + entryBytes
	if d.most > 0 && d.size > d.most {
		return errTooLarge
	}
	return nil
}

// maxExtras bounds the cache of metadata.
const maxExtras = 1024

func (d *decoder) remember(text string, extra map[string]string) {
	if d.extras == nil || len(d.extras) >= maxExtras {
		d.extras = map[string]map[string]string{}
	}
	d.extras[text] = extra
	d.size += int64(2*len(text)) + entryBytes
}

// streamTable holds the streams of one call of Range, for all its fetches.
type streamTable struct {
	mu     sync.Mutex
	byKey  map[string]*Stream
	byText map[string]*Stream // as Loki wrote it in protobuf
}

// of gives the stream with these labels.
func (t *streamTable) of(labels map[string]string) *Stream {
	key := keyOf(labels)
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byKey[key]
	if !ok {
		s = &Stream{Labels: labels, Key: key}
		if t.byKey == nil {
			t.byKey, t.byText = map[string]*Stream{}, map[string]*Stream{}
		}
		t.byKey[key] = s
	}
	return s
}

// ofText gives the stream with labels written as Loki does.
func (t *streamTable) ofText(text []byte) (*Stream, error) {
	t.mu.Lock()
	s, ok := t.byText[string(text)]
	t.mu.Unlock()
	if ok {
		return s, nil
	}
	labels, err := parseLabels(string(text))
	if err != nil {
		return nil, err
	}
	s = t.of(labels)
	t.mu.Lock()
	t.byText[string(text)] = s
	t.mu.Unlock()
	return s, nil
}

// keyOf writes labels as Loki does, sorted.
func keyOf(labels map[string]string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name + "=" + strconv.Quote(labels[name]))
	}
	b.WriteByte('}')
	return b.String()
}

// merged brings the streams of an answer together: by time, then by stream,
// and of one stream and time in the order in which Loki gave them. What is
// equal in stream, time and line is one entry.
func merged(es []Entry) []Entry {
	if rising(es) {
		return es
	}
	m := newMerger(es)
	out := room(len(es))
	first := 0 // in out, of the entries of this stream and time
	seen := map[string]bool{}
	for {
		i, ok := m.next()
		if !ok {
			return out
		}
		e := es[i]
		if n := len(out); n == 0 || out[n-1].Stream != e.Stream || !out[n-1].Time.Equal(e.Time) {
			first = n
			clear(seen)
		} else {
			if len(seen) == 0 {
				seen[out[first].Line] = true
			}
			if seen[e.Line] {
				continue
			}
			seen[e.Line] = true
		}
		out = append(out, e)
	}
}

// merger walks over entries that came stream by stream, in the order of
// merged. Loki sorts each stream, so it is a heap of streams.
type merger struct {
	es   []Entry
	runs []run
}

// run is a stretch of one stream's entries that rise in time.
type run struct {
	ns      int64 // of the entry at i
	rank    int   // of the stream among all
	i, last int
}

func (a run) compare(b run) int {
	return cmp.Or(cmp.Compare(a.ns, b.ns), cmp.Compare(a.rank, b.rank), cmp.Compare(a.i, b.i))
}

func newMerger(es []Entry) *merger {
	m := &merger{es: es}
	rank := map[*Stream]int{}
	for i := range es {
		if i > 0 && es[i].Stream == es[i-1].Stream && !es[i].Time.Before(es[i-1].Time) {
			m.runs[len(m.runs)-1].last = i
			continue
		}
		rank[es[i].Stream] = 0
		m.runs = append(m.runs, run{ns: es[i].Time.UnixNano(), i: i, last: i})
	}
	for i, s := range slices.SortedFunc(maps.Keys(rank), func(a, b *Stream) int { return strings.Compare(a.Key, b.Key) }) {
		rank[s] = i
	}
	for i := range m.runs {
		m.runs[i].rank = rank[es[m.runs[i].i].Stream]
	}
	slices.SortFunc(m.runs, run.compare) // which is a heap
	return m
}

// next gives the place of the next entry.
func (m *merger) next() (i int, ok bool) {
	if len(m.runs) == 0 {
		return 0, false
	}
	top := &m.runs[0]
	i = top.i
	if top.i < top.last {
		top.i++
		top.ns = m.es[top.i].Time.UnixNano()
	} else {
		n := len(m.runs) - 1
		m.runs[0], m.runs = m.runs[n], m.runs[:n]
	}
	m.sink()
	return i, true
}

// sink puts the first run where it belongs.
func (m *merger) sink() {
	for at := 0; ; {
		least := at
		for child := 2*at + 1; child <= 2*at+2 && child < len(m.runs); child++ {
			if m.runs[child].compare(m.runs[least]) < 0 {
				least = child
			}
		}
		if least == at {
			return
		}
		m.runs[at], m.runs[least] = m.runs[least], m.runs[at]
		at = least
	}
}

// rising tells that entries are merged already: as a rule those of one stream.
func rising(es []Entry) bool {
	for i := 1; i < len(es); i++ {
		switch es[i-1].Time.Compare(es[i].Time) {
		case 1:
			return false
		case 0:
			if es[i-1].Stream.Key >= es[i].Stream.Key {
				return false
			}
		}
	}
	return true
}

// json reads an answer in JSON.
func (d *decoder) json(r io.Reader) error {
	var answer struct {
		Status string
		Data   struct {
			ResultType string
			Result     []struct {
				Stream map[string]string
				Values json.RawMessage
			}
		}
	}
	if err := decodeJSON(r, &answer); err != nil {
		return err
	}
	if t := answer.Data.ResultType; t != "streams" {
		return fmt.Errorf("the query gives %q, not log lines", t)
	}
	for _, s := range answer.Data.Result {
		err := d.values(s.Values, d.streams.of(s.Stream))
		if errors.Is(err, errTooLarge) {
			return err
		} else if err != nil {
			return notLoki(err)
		}
	}
	return nil
}

// The entries of an answer are by far the most of it, so they are taken apart
// by hand. Their JSON has been found valid before: only its types are in doubt.

// values reads the entries of one stream's "values":
// [["<nanoseconds>", "<line>", {"structuredMetadata": {...}}], ...].
func (d *decoder) values(values []byte, st *Stream) error {
	if len(values) == 0 || string(values) == "null" {
		return nil
	}
	s := scanner{b: values}
	if !s.skip('[') {
		return fmt.Errorf("values are no list: %.20q", values)
	}
	for !s.skip(']') {
		e, err := d.entry(&s)
		if err != nil {
			return err
		}
		e.Stream = st
		if err := d.add(e); err != nil {
			return err
		}
		s.skip(',')
	}
	return nil
}

func (d *decoder) entry(s *scanner) (e Entry, err error) {
	if !s.skip('[') {
		return e, errors.New("an entry is no list")
	}
	stamp, err := s.text()
	if err != nil {
		return e, err
	}
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return e, fmt.Errorf("entry time %q: %w", stamp, err)
	}
	e.Time = time.Unix(0, n).UTC()
	s.skip(',')
	if e.Line, err = s.text(); err != nil {
		return e, err
	}
	for i := 2; !s.skip(']'); i++ {
		s.skip(',')
		if extra := s.value(); i == 2 {
			if e.Metadata, err = d.extra(extra); err != nil {
				return e, err
			}
		}
	}
	return e, nil
}

// extra reads the third part of an entry. Most entries say the same there, so
// equal ones share a map.
func (d *decoder) extra(b []byte) (map[string]string, error) {
	if m, ok := d.extras[string(b)]; ok {
		return m, nil
	}
	var extra struct{ StructuredMetadata map[string]string }
	if err := json.Unmarshal(b, &extra); err != nil {
		return nil, err
	}
	d.remember(string(b), extra.StructuredMetadata)
	return extra.StructuredMetadata, nil
}

// scanner walks over valid JSON.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// skip steps over c if it is next. The end counts as any c, so that no loop
// runs on where the JSON was not valid after all.
func (s *scanner) skip(c byte) bool {
	s.space()
	if s.i >= len(s.b) {
		return true
	}
	if s.b[s.i] != c {
		return false
	}
	s.i++
	return true
}

// text reads a string.
func (s *scanner) text() (string, error) {
	s.space()
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return "", errors.New("an entry is not two strings")
	}
	raw := s.quoted()
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner), nil
	}
	var t string
	err := json.Unmarshal(raw, &t)
	return t, err
}

// quoted steps over a string and gives it with its quotes.
func (s *scanner) quoted() []byte {
	start := s.i
	for s.i++; s.i < len(s.b) && s.b[s.i] != '"'; s.i++ {
		if s.b[s.i] == '\\' {
			s.i++
		}
	}
	s.i = min(s.i+1, len(s.b))
	return s.b[start:s.i]
}

// value steps over a value of any type and gives it.
func (s *scanner) value() []byte {
	s.space()
	start, depth := s.i, 0
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			s.quoted()
			continue
		case '{', '[':
			depth++
		case '}', ']', ',':
			if depth == 0 {
				return bytes.TrimSpace(s.b[start:s.i])
			}
			if s.b[s.i] != ',' {
				depth--
			}
		}
		s.i++
	}
	return s.b[start:]
}
