package loki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is one log line.
type Entry struct {
	Time     time.Time
	Line     string
	Stream   *Stream
	Metadata map[string]string // structured metadata; nil for none; shared, not to be changed
}

// Stream is a set of labels. The entries of one stream within one call of
// Range share one.
type Stream struct {
	Labels map[string]string
	// Key names the stream: its labels as Loki writes them, sorted.
	Key string
}

// Range reads every entry of the half-open window [from, to), oldest first.
// Entries of one instant come by stream, and those of one stream in Loki's
// order, whatever the size of the pages and however many are read at once.
//
// Several entries may share an instant and a page may end among them, so the
// next page begins with the last instant of a full one, and what was seen of
// it waits until it is there as a whole. An instant that fills a page is asked
// for again with a larger limit and, beyond the server's, stream by stream. It
// is never stepped over.
//
// An error is the last value, even for a reader that goes on. Once Range has
// returned, none of its requests runs.
func (c *Client) Range(ctx context.Context, query string, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		parallel := 1
		if to.Sub(from) > shortRange {
			parallel = c.o.MaxParallel
		}
		p := &pager{c: c, query: query, fit: c.fit(ctx, parallel), yield: yield, told: Progress{From: from, To: to, At: from}}
		if filters(query) {
			p.remark = "\n# asked " + time.Now().UTC().Format(time.RFC3339Nano)
		}
		p.most = c.o.MaxBuffer / int64(4*parallel)
		if parallel > 1 {
			p.ahead(ctx, from, to)
		} else {
			p.sequence(ctx, from, to)
		}
		c.can.keep(p.fit)
	}
}

// shortRange is what a follower may read at once. Longer ones are back-fill.
var shortRange = 2 * time.Hour

// Newest reads the newest entry of a time.
func (c *Client) Newest(ctx context.Context, query string, from, to time.Time) (Entry, bool, error) {
	p := &pager{c: c}
	page, err := p.fetch(ctx, &ask{query: query, from: from, to: to, limit: 1, direction: "backward"})
	if err != nil || len(page.entries) == 0 {
		return Entry{}, false, err
	}
	return page.entries[0], true, nil
}

// pager reads page after page.
type pager struct {
	c       *Client
	query   string
	fit     *fit
	most    int64 // bytes of an answer, and of its entries
	streams streamTable
	usual   atomic.Int32 // entries of the last page
	// remark is a comment that makes a query one that was never asked before.
	// Where query_range.cache_results is on, Loki remembers of queries with
	// filters that they found nothing in a time, and does not see what came
	// since. "Cache-Control: no-cache" would be the way; 3.7.8 forgets it where
	// it splits a query by time.
	remark string

	yield func(Entry, error) bool
	told  Progress
}

// page is what a window holds: all entries of [.., next).
type page struct {
	entries []Entry
	next    time.Time
	size    int64 // bytes that the entries hold
}

// give passes a page on and tells whether the reader wants more. between,
// where set, is called now and then.
func (p *pager) give(pg *page, between func()) bool {
	for i := range pg.entries {
		if !p.yield(pg.entries[i], nil) {
			return false
		}
		p.told.Bytes += int64(len(pg.entries[i].Line))
		if between != nil && i%256 == 255 {
			between()
		}
	}
	p.told.Entries += len(pg.entries)
	release(pg.entries)
	pg.entries = nil
	p.told.At = pg.next
	if p.c.o.Progress != nil {
		p.c.o.Progress(p.told)
	}
	return true
}

// sequence reads [from, to) page after page.
func (p *pager) sequence(ctx context.Context, from, to time.Time) {
	for from.Before(to) {
		_, span := p.fit.window()
		pg, err := p.read(ctx, from, earlier(from.Add(span), to))
		if err != nil {
			p.yield(Entry{}, err)
			return
		}
		if !p.give(pg, nil) {
			return
		}
		from = pg.next
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// read reads the beginning of [from, to), as far as one page reaches.
func (p *pager) read(ctx context.Context, from, to time.Time) (*page, error) {
	limit, _ := p.fit.window()
	a := &ask{query: p.query, from: from, to: to, limit: limit, direction: "forward", fits: true}
	pg, err := p.fetch(ctx, a)
	if err != nil {
		return nil, err
	}
	n := len(pg.entries)
	if !a.full {
		p.fit.learn(n, a.limit, a.to.Sub(from), false)
		return pg, nil
	}
	if n == 0 { // they were all of the moment before
		return p.wholeInstant(ctx, from, a.limit, nil)
	}
	last := pg.entries[n-1].Time
	if last.After(pg.entries[0].Time) {
		p.fit.learn(n, a.limit, last.Sub(from), true)
		for n > 0 && pg.entries[n-1].Time.Equal(last) {
			n--
			pg.size -= int64(len(pg.entries[n].Line)) + entryBytes
		}
		clear(pg.entries[n:])
		pg.entries, pg.next = pg.entries[:n], last
		return pg, nil
	}
	p.fit.learn(n, a.limit, last.Sub(from)+1, true)
	return p.wholeInstant(ctx, last, a.limit, pg.entries)
}

// largestLimit bounds how far a limit is raised for one instant.
const largestLimit = 1 << 20

// wholeInstant reads one instant, with ever larger limits than the one that it
// filled, then stream by stream. What was seen of it must be in it.
func (p *pager) wholeInstant(ctx context.Context, at time.Time, limit int, seen []Entry) (*page, error) {
	_, maximum := p.fit.limits()
	for limit < largestLimit && (maximum == 0 || limit < maximum) {
		limit *= 2
		if maximum > 0 {
			limit = min(limit, maximum)
		}
		a := &ask{query: p.query, from: at, to: at.Add(1), limit: limit, direction: "forward"}
		pg, err := p.fetch(ctx, a)
		if top, tooLarge := entryLimit(err); tooLarge {
			p.fit.met(top)
			break
		}
		if e := (*Error)(nil); errors.As(err, &e) && tooManyBytes(e) {
			break
		}
		if err != nil || !a.full {
			return pg, err
		}
	}
	pg, err := p.byStream(ctx, at)
	if err != nil {
		return nil, err
	}
	have := map[*Stream]map[string]bool{}
	for _, e := range pg.entries {
		if have[e.Stream] == nil {
			have[e.Stream] = map[string]bool{}
		}
		have[e.Stream][e.Line] = true
	}
	for _, e := range seen {
		if !have[e.Stream][e.Line] {
			return nil, overflow(at, "%d or more lines bear one time, and Loki's list of series lacks %s to read them apart", limit, e.Stream.Key)
		}
	}
	return pg, nil
}

// overflow is the error of an instant that cannot be read whole.
func overflow(at time.Time, format string, args ...any) error {
	err := fmt.Errorf(format+": raise the server's max_entries_limit_per_query", args...)
	return &Error{Op: opRange + " at " + at.UTC().Format(time.RFC3339Nano), Err: err, final: true}
}

// byStream reads one instant of each stream by itself.
func (p *pager) byStream(ctx context.Context, at time.Time) (*page, error) {
	series, err := p.c.series(ctx, p.query, at.Add(-time.Hour), at.Add(time.Hour))
	if err != nil {
		return nil, err
	}
	limit := max(p.fit.limits())
	all := &page{next: at.Add(1)}
	for i, labels := range alone(series) {
		q, err := narrow(p.query, labels)
		if err != nil {
			return nil, err
		}
		a := &ask{query: q, from: at, to: at.Add(1), limit: limit, direction: "forward"}
		pg, err := p.fetch(ctx, a)
		if err != nil {
			return nil, err
		}
		if a.full {
			return nil, overflow(at, "%d or more lines of stream %s bear one time, as many as Loki gives at once", limit, keyOf(series[i]))
		}
		all.entries = append(all.entries, pg.entries...)
		if all.size += pg.size; all.size > p.c.o.MaxBuffer {
			return nil, &Error{Op: opRange + " at " + at.UTC().Format(time.RFC3339Nano), Err: errors.New("the lines of one time do not fit into max_buffer: raise it"), final: true}
		}
	}
	all.entries = merged(all.entries)
	return all, nil
}

// alone completes each stream's labels with the others' names, empty: to
// LogQL {host="a"} is also every stream that has more labels than that.
func alone(series []map[string]string) []map[string]string {
	names := map[string]string{}
	for _, labels := range series {
		for name := range labels {
			names[name] = ""
		}
	}
	out := make([]map[string]string, len(series))
	for i, labels := range series {
		out[i] = maps.Clone(names)
		maps.Copy(out[i], labels)
	}
	return out
}

const opRange = "query_range"

// hidden is how much earlier than wanted an ask begins. Loki 3.7.8 hides the last
// entry of a flushed chunk from a query that begins at its very time; of a page
// that ends among a time's entries, that is where the next one begins. Loki cuts
// queries at whole hours, so that one that begins there is not helped.
const hidden = time.Nanosecond

// start is from when Loki is asked for entries; those before a.from are not wanted.
func (a *ask) start() time.Time {
	if a.from.Equal(a.from.Truncate(splitInterval)) {
		return a.from
	}
	return a.from.Add(-hidden)
}

// ask is one question. It becomes smaller where the server wants that.
type ask struct {
	query     string
	from, to  time.Time
	limit     int
	direction string
	fits      bool // limit and to may become smaller
	full      bool // the answer has as many entries as were asked for
}

// bodies are buffers for answers.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// fetch asks once and merges the streams of the answer in time order.
func (p *pager) fetch(ctx context.Context, a *ask) (*page, error) {
	r := &request{
		method: http.MethodGet, path: "/loki/api/v1/query_range", most: p.most,
		// without it Loki makes several streams of one: structured metadata
		// would count as labels
		header: map[string]string{"X-Loki-Response-Encoding-Flags": "categorize-labels"},
	}
	set := func() {
		r.op = fmt.Sprintf("%s %s to %s", opRange, a.from.UTC().Format(time.RFC3339), a.to.UTC().Format(time.RFC3339))
		r.query = url.Values{
			"query": {p.asked(a)}, "start": {nano(a.start())}, "end": {nano(a.to)},
			"limit": {strconv.Itoa(a.limit)}, "direction": {a.direction},
		}
		// Loki wants exactly this; asked for anything else it gives JSON.
		r.header["Accept"] = protobufType
		if p.c.can.json.Load() {
			r.header["Accept"] = "application/json"
		}
	}
	set()
	r.change = func(e *Error) bool {
		before := *a
		changed := e.Status == http.StatusNotAcceptable && !p.c.can.json.Swap(true) || foreignStage(e) && !p.c.can.levels.Swap(true)
		if a.fits {
			limit, span := p.fit.smaller(e, a.limit, a.to.Sub(a.from))
			a.limit, a.to = limit, a.from.Add(span)
			changed = changed || a.limit < before.limit || a.to.Before(before.to)
		}
		set()
		return changed
	}
	var d *decoder
	r.read = func(body io.Reader, contentType string) error {
		d = &decoder{streams: &p.streams, most: p.most, entries: room(int(p.usual.Load()))}
		if err := p.decode(d, body, contentType); err != nil {
			return err
		}
		a.full = len(d.entries) >= a.limit
		for i := range d.entries {
			if t := d.entries[i].Time; t.Before(a.start()) || !t.Before(a.to) {
				return damaged("an entry of %s is outside of what was asked for", t.Format(time.RFC3339Nano))
			}
		}
		d.entries = slices.DeleteFunc(d.entries, func(e Entry) bool { return e.Time.Before(a.from) })
		return nil
	}
	if err := p.c.do(ctx, r); err != nil {
		return nil, err
	}
	p.usual.Store(int32(len(d.entries)))
	pg := &page{next: a.to, size: d.size}
	if len(d.entries) > 0 {
		pg.entries = merged(d.entries)
		if &pg.entries[0] != &d.entries[0] {
			release(d.entries)
		}
	}
	return pg, nil
}

// lists are slices of entries that nobody looks at any more: of a long range they
// would be half of the garbage.
var lists = sync.Pool{New: func() any { return new([]Entry) }}

// room is an empty list for n entries.
func room(n int) []Entry {
	es := *lists.Get().(*[]Entry)
	if cap(es) < n {
		return make([]Entry, 0, n)
	}
	return es
}

// release gives a list back. Its entries must not be looked at again.
func release(es []Entry) {
	clear(es)
	es = es[:0]
	lists.Put(&es)
}

// withoutLevel spares Loki a third of what a page costs it (0.12 s of processor
// time for 5000 lines in Loki 3.7.8, 0.08 s with it): the level that it guesses of
// each line by itself, and which nobody wants to know here, need not be told with
// each. The stage is there since Loki 2.9.
const withoutLevel = "\n| drop detected_level"

// asked is the query as it is sent.
func (p *pager) asked(a *ask) string {
	if p.c.can.levels.Load() {
		return a.query + p.remark
	}
	return a.query + withoutLevel + p.remark
}

// foreignStage tells that the server does not know our stage.
func foreignStage(e *Error) bool {
	return e.Status == http.StatusBadRequest && strings.Contains(e.Body, "parse error")
}

// tolerated is how many answers in protobuf may be damaged in sequence before
// only JSON is asked for: Loki does not promise their form.
const tolerated = 2

// decode reads an answer in the form in which it came.
func (p *pager) decode(d *decoder, body io.Reader, contentType string) error {
	if !strings.HasPrefix(contentType, protobufType) {
		counted := &countingReader{r: body}
		err := d.json(counted)
		p.fit.weigh(counted.n, len(d.entries))
		return err
	}
	b := bodies.Get().(*bytes.Buffer)
	defer func() {
		b.Reset()
		bodies.Put(b)
	}()
	if _, err := b.ReadFrom(body); err != nil {
		return err
	}
	err := d.protobuf(b.Bytes())
	p.fit.weigh(b.Len()+messageEntry*len(d.entries), len(d.entries))
	switch {
	case err == nil:
		p.c.can.broken.Store(0)
	case errors.Is(err, errDamaged) && p.c.can.broken.Add(1) >= tolerated:
		p.c.can.json.Store(true)
	}
	return err
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n int
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
