// Package pipeline moves lines from a source to the sinks: window by window
// through the parser, the correlation and the ranking.
//
// The daemon, its back-fill and the one-shot report all feed lines through the
// same Feed, so that they cannot come to different results.
package pipeline

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// Line is one log line with what its source knows of it.
type Line struct {
	Host string
	// At is the time that Loki has for the entry; zero for lines of a file,
	// whose order is their order in it.
	At   time.Time
	Text string
	// Stream tells apart the streams of a host, which may have different forms.
	Stream string
	// Thread and PID are what a journal kept of the writer.
	Thread string
	PID    int
	// Own says that we wrote the line ourselves.
	Own bool
	// Unnamed says that no label names the host: Host is the source's name.
	Unnamed bool
	// Jail is what the stream says of the jail, for lines that name none.
	Jail string
}

// Source gives the lines of the half-open window [from, to), oldest first.
type Source interface {
	Lines(ctx context.Context, from, to time.Time) iter.Seq2[Line, error]
}

// Results of lines, as fail2ban_exporter_lines_total counts them.
const (
	ResultEvent     = "event"
	ResultOther     = "other"
	ResultUnparsed  = "unparsed"
	ResultDuplicate = "duplicate"
	ResultOwn       = "own"
)

// FeedOptions configure a Feed.
type FeedOptions struct {
	Correlate correlate.Options
	// Parser is how lines are read; Location and Newest are set for each host.
	Parser fail2ban.Options
	// Zone gives a host's time zone; nil infers it from the entries' times.
	Zone func(host string) *time.Location
	// Newest bounds the years that stamps without one may mean.
	Newest time.Time
	// From and To bound the lines of files by their own time, half-open; zero
	// is no bound. What comes from Loki is bounded by its window.
	From, To time.Time
	// Board, where set, is told what the ranking is made of.
	Board *Board
	// Tally counts the lines of each stream, so that late ones can be found.
	Tally bool
	// Count, where set, is called for each line with its result.
	Count func(result string)
	// Unparsed, where set, is shown each line that could not be read.
	Unparsed func(Line)
}

// Feed turns lines into findings. It is not safe for concurrent use.
type Feed struct {
	o        FeedOptions
	engine   *correlate.Engine
	parsers  map[streamKey]*lane
	coverage map[string]*Coverage
	unnamed  map[string]bool

	at    time.Time // the instant of the waiting lines
	group []Line
	done  time.Time // entries of instants up to it have been taken

	steps *stepper // of the past, nil where nobody asks

	fine, coarse *tallies // of what was taken, nil where nobody asks
	// tell is o.Count, unless who moves the feed wants to hear of it first.
	tell func(result string)
}

type streamKey struct{ host, stream string }

func (k streamKey) compare(o streamKey) int {
	return cmp.Or(strings.Compare(k.host, o.host), strings.Compare(k.stream, o.stream))
}

// lane is what reading a stream's lines takes.
type lane struct {
	parser *fail2ban.Parser
	counts *Coverage // of the stream's host, nil while no line was its
}

// Coverage says what was read of a host.
type Coverage struct {
	Lines, Events, Unparsed uint64
}

// NewFeed makes a feed that has read nothing.
func NewFeed(o FeedOptions) *Feed {
	f := &Feed{o: o, parsers: map[streamKey]*lane{}, coverage: map[string]*Coverage{}, unnamed: map[string]bool{}}
	if board := o.Board; board != nil {
		f.o.Correlate.Observe = board.observe
	}
	if o.Tally {
		f.fine, f.coarse = newTallies(fineBucket), newTallies(coarseBucket)
	}
	f.tell = o.Count
	f.engine = correlate.NewEngine(f.o.Correlate)
	return f
}

// Engine is the correlation's state.
func (f *Feed) Engine() *correlate.Engine { return f.engine }

// Coverage says what was read of a host.
func (f *Feed) Coverage(host string) Coverage {
	if c := f.coverage[host]; c != nil {
		return *c
	}
	return Coverage{}
}

// results are the lines by what became of them.
func (c Coverage) results() map[string]uint64 {
	return map[string]uint64{ResultEvent: c.Events, ResultUnparsed: c.Unparsed, ResultOther: c.Lines - c.Events - c.Unparsed}
}

// fresh is a feed as this one was when it had read nothing, with a ranking of
// its own. It tells nobody of its lines.
func (f *Feed) fresh() *Feed {
	o := f.o
	o.Count, o.Unparsed, o.Correlate.Forgot = nil, nil, nil
	if o.Board != nil {
		o.Board = o.Board.fresh()
	}
	return NewFeed(o)
}

// replace puts what another feed has read of a host into the place of what this
// one has.
func (f *Feed) replace(host string, by *Feed) {
	f.engine.Drop(host)
	f.engine.Adopt(by.engine)
	delete(f.coverage, host)
	maps.Copy(f.coverage, by.coverage)
	maps.DeleteFunc(f.parsers, func(key streamKey, _ *lane) bool { return key.host == host })
	maps.Copy(f.parsers, by.parsers)
	maps.Copy(f.unnamed, by.unnamed)
	f.fine.replace(host, by.fine)
	f.coarse.replace(host, by.coarse)
	if f.o.Board != nil {
		f.o.Board.replace(host, by.o.Board)
	}
}

// Unnamed counts the hosts, by stream, that no label names.
func (f *Feed) Unnamed() int { return len(f.unnamed) }

// Add takes one line. Lines of one instant are held back until another comes:
// Loki promises no order among them, so they are taken in one of our own.
func (f *Feed) Add(l Line) {
	if l.Own {
		f.count(ResultOwn)
		return
	}
	if !l.At.IsZero() && !l.At.After(f.done) {
		f.count(ResultDuplicate) // a window is read again: what failed in its midst, or was asked for twice
		return
	}
	if format := f.o.Parser.Format; l.Unnamed && (format == nil || !format.NamesHost()) {
		f.unnamed[l.Stream] = true
	}
	if l.At.IsZero() {
		f.Flush()
		f.take([]Line{l})
		return
	}
	if !l.At.Equal(f.at) {
		f.Flush()
		f.steps.pass(l.At)
	}
	f.at = l.At
	f.group = append(f.group, l)
}

// Flush takes the lines held back. It is called where an instant is known to
// be complete: at the end of a window, which no instant straddles.
func (f *Feed) Flush() {
	if len(f.group) == 0 {
		return
	}
	f.takeLoki(f.group)
	f.done = f.at
	f.drop()
}

// drop forgets the lines held back: their instant may not be complete.
func (f *Feed) drop() {
	clear(f.group)
	f.group = f.group[:0]
}

// parsed is a line that was read.
type parsed struct {
	host string
	text string
	ev   fail2ban.Event
}

// takeLoki takes the lines of one instant from Loki, and counts them.
func (f *Feed) takeLoki(lines []Line) {
	if f.fine != nil {
		for i := range lines {
			f.fine.add(&lines[i], true)
			f.coarse.add(&lines[i], false)
		}
	}
	f.take(lines)
}

// take reads the lines of one instant and hands them on in the order of the
// rules: event time, rank of the verb, jail, id, line.
func (f *Feed) take(lines []Line) {
	if len(lines) == 1 {
		var ev fail2ban.Event
		if f.parse(&lines[0], &ev) {
			f.engine.Add(lines[0].Host, &ev)
		}
		return
	}
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.Stream, b.Stream), strings.Compare(a.Text, b.Text))
	})
	events := make([]parsed, 0, len(lines))
	for i := range lines {
		p := parsed{text: lines[i].Text}
		if f.parse(&lines[i], &p.ev) {
			p.host = lines[i].Host
			events = append(events, p)
		}
	}
	slices.SortStableFunc(events, func(a, b parsed) int {
		return cmp.Or(strings.Compare(a.host, b.host), a.ev.Time.Compare(b.ev.Time), cmp.Compare(rank(a.ev.Kind), rank(b.ev.Kind)),
			strings.Compare(a.ev.Jail, b.ev.Jail), strings.Compare(a.ev.ID, b.ev.ID), strings.Compare(a.text, b.text))
	})
	for i := range events {
		f.engine.Add(events[i].host, &events[i].ev)
	}
}

// rank puts lines that are no events last.
func rank(k fail2ban.Kind) int {
	if k == fail2ban.Other {
		return 1 << 8
	}
	return int(k)
}

// lane is that of a stream.
func (f *Feed) lane(key streamKey) *lane {
	l, ok := f.parsers[key]
	if !ok {
		o := f.o.Parser
		o.Location, o.Newest = f.zone(key.host), f.o.Newest
		l = &lane{parser: fail2ban.NewParser(o)}
		f.parsers[key] = l
	}
	return l
}

// countsOf is the coverage of a host.
func (f *Feed) countsOf(host string) *Coverage {
	c := f.coverage[host]
	if c == nil {
		c = &Coverage{}
		f.coverage[host] = c
	}
	return c
}

// parse reads a line and tells whether the engine shall see it. A host that
// the line names is the line's host.
func (f *Feed) parse(l *Line, ev *fail2ban.Event) bool {
	lane := f.lane(streamKey{l.Host, l.Stream})
	err := lane.parser.ParseText(l.Text, l.At, ev)
	if l.At.IsZero() && f.outside(ev.Time) {
		return false
	}
	c := lane.counts
	switch {
	case ev.Host != "":
		l.Host = strings.Clone(ev.Host)
		c = f.countsOf(l.Host)
	case c == nil:
		c = f.countsOf(l.Host)
		lane.counts = c
	}
	c.Lines++
	switch {
	case errors.Is(err, fail2ban.ErrUnparsed):
		c.Unparsed++
		f.count(ResultUnparsed)
		if f.o.Unparsed != nil {
			f.o.Unparsed(*l)
		}
		return false
	case err != nil:
		f.count(ResultOther)
		return false
	case ev.Kind == fail2ban.Other:
		f.count(ResultOther)
	default:
		c.Events++
		f.count(ResultEvent)
	}
	if l.Thread != "" {
		ev.Thread = l.Thread
	}
	if l.PID != 0 && ev.PID == 0 {
		ev.PID = l.PID
	}
	if f.o.Correlate.Explain {
		ev.Text = l.Text[:min(len(l.Text), fail2ban.MaxLine)]
	}
	if ev.Jail == "" && ev.Kind.HasID() {
		ev.Jail = f.jail(l)
	}
	return !ev.Time.IsZero()
}

// jail names the jail of a line that names none: after its stream, else after
// its format.
func (f *Feed) jail(l *Line) string {
	if l.Jail != "" && len(l.Jail) <= fail2ban.MaxJail || f.o.Parser.Format == nil {
		return l.Jail[:min(len(l.Jail), fail2ban.MaxJail)]
	}
	return f.o.Parser.Format.Name()
}

// outside tells a line of a file that stands before or after the asked range.
// A line without a time goes with the one before it: it is no event.
func (f *Feed) outside(t time.Time) bool {
	if t.IsZero() {
		return false
	}
	return !f.o.From.IsZero() && t.Before(f.o.From) || !f.o.To.IsZero() && !t.Before(f.o.To)
}

func (f *Feed) zone(host string) *time.Location {
	if f.o.Zone == nil {
		return nil
	}
	return f.o.Zone(host)
}

func (f *Feed) count(result string) {
	if f.tell != nil {
		f.tell(result)
	}
}

// Read feeds a whole window of a source. A window that failed is read again
// from its beginning: what was taken of it is not taken twice.
func (f *Feed) Read(ctx context.Context, s Source, from, to time.Time) error {
	for l, err := range s.Lines(ctx, from, to) {
		if err != nil {
			f.drop()
			return err
		}
		f.Add(l)
	}
	if err := ctx.Err(); err != nil {
		f.drop()
		return err
	}
	f.Flush()
	return nil
}
