package loki

import (
	"context"
	"slices"
	"time"
)

// A long range is read ahead. It is a queue of segments in the order of time:
// each has been read, is being read, or is still to be read, which the first
// of them that waits stands for whatever its length. Each request takes the
// earliest window there is; what did not fit into its page goes back into the
// queue in its place. So all requests work near the beginning, whose entries
// are wanted first, and windows need not be known before.
//
// What a page costs Loki hardly depends on how full it is, so pages shall be
// full: where an hour has several, a request asks for all that is left of the
// hour or of its segment, and what does not fit comes next. It asks for no two
// such hours: Loki reads them side by side, each up to the limit.
//
// One goroutine, the reader's own, holds the queue; the others only ask. What
// they hold is bounded before they start: each may hold an answer and its
// entries, both of at most p.most bytes, and the first segment always has room.

// segment is a part of the range.
type segment struct {
	from, to time.Time
	state    segmentState
	page     *page
	err      error
}

const (
	// segmentPages is about how many pages one request after another reads
	// before the time that the next one reads.
	segmentPages = 8
	// splitInterval is how Loki cuts queries by default
	// (split_queries_by_interval), at whole hours.
	splitInterval = time.Hour
)

// wholeHours is the last full hour up to a time, unless that is not after from.
func wholeHours(from, to time.Time) time.Time {
	if hour := to.Truncate(splitInterval); hour.After(from) {
		return hour
	}
	return to
}

type segmentState uint8

const (
	waiting segmentState = iota
	running
	ready
)

// reader reads ahead.
type reader struct {
	p       *pager
	queue   []*segment
	answers chan *segment
	running int
	held    int64 // bytes of segments that are ready
}

// ahead reads [from, to) with several requests at once.
func (p *pager) ahead(ctx context.Context, from, to time.Time) {
	if !from.Before(to) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{p: p, queue: []*segment{{from: from, to: to}}, answers: make(chan *segment, p.c.o.MaxParallel)}
	defer func() {
		cancel()
		for ; r.running > 0; r.running-- {
			<-r.answers
		}
	}()
	for len(r.queue) > 0 {
		r.start(ctx)
		head := r.queue[0]
		if head.state != ready {
			r.take(<-r.answers)
			continue
		}
		if head.err != nil {
			p.yield(Entry{}, head.err)
			return
		}
		// while a page is given, answers are taken and requests started
		more := p.give(head.page, func() {
			select {
			case s := <-r.answers:
				r.take(s)
				r.start(ctx)
			default:
			}
		})
		if !more {
			return
		}
		r.held -= head.page.size
		r.queue = r.queue[1:]
	}
}

// start sends requests for the earliest windows while there is room.
func (r *reader) start(ctx context.Context) {
	each := 2 * r.p.most
	for i := 0; i < len(r.queue) && r.running < r.p.fit.width(); i++ {
		s := r.queue[i]
		if s.state == ready && s.err != nil {
			return // nothing after it will be given
		}
		if s.state != waiting {
			continue
		}
		reserved := int64(r.running+1) * each
		if i > 0 && r.queue[0].state == waiting {
			reserved += each
		}
		if i > 0 && r.held+reserved > r.p.c.o.MaxBuffer {
			return
		}
		_, span := r.p.fit.window()
		if rest := wholeHours(s.from, s.from.Add(segmentPages*span)); rest.Before(s.to) {
			r.queue = slices.Insert(r.queue, i+1, &segment{from: rest, to: s.to})
			s.to = rest
		}
		until := earlier(wholeHours(s.from, s.from.Add(r.p.fit.stretch())), s.to)
		s.state = running
		r.running++
		go func() {
			s.page, s.err = r.p.read(ctx, s.from, until)
			r.answers <- s
		}()
	}
}

// take puts an answer into its place.
func (r *reader) take(s *segment) {
	r.running--
	s.state = ready
	if s.err != nil {
		return
	}
	r.held += s.page.size
	if !s.page.next.Before(s.to) {
		return
	}
	// the rest of the window: with what waits behind it, it is one
	rest := s.page.next
	s.to, rest = rest, s.to
	i := slices.Index(r.queue, s) + 1
	if i < len(r.queue) && r.queue[i].state == waiting {
		r.queue[i].from = s.to
		return
	}
	r.queue = slices.Insert(r.queue, i, &segment{from: s.to, to: rest})
}
