package loki

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
)

const (
	// usualLimit is what a Loki gives at once that does not say.
	usualLimit = 5000
	// largestPage bounds a page where the server's limit does not: beyond it
	// the cost of a page no longer counts beside that of its entries.
	largestPage = 50_000
)

// abilities are what a client learned of its server.
type abilities struct {
	mu     sync.Mutex
	asked  bool
	limit  int           // entries a request, 0 while not known
	length time.Duration // of a query, 0 for any
	span   time.Duration // of the last windows
	each   float64       // bytes of an entry in a message, 0 while not known
	broken atomic.Int32  // answers in protobuf that could not be read, in sequence
	json   atomic.Bool   // no protobuf
	levels atomic.Bool   // no withoutLevel
}

// fit asks the server for its limits, once, and tells how much to ask for.
func (c *Client) fit(ctx context.Context, parallel int) *fit {
	a := &c.can
	a.mu.Lock()
	defer a.mu.Unlock()
	// A page that every server gives needs no question.
	if !a.asked && (c.o.PageSize == 0 || c.o.PageSize > usualLimit) {
		limit, length, err := c.limits(ctx)
		var e *Error
		a.asked = err == nil || errors.As(err, &e) && !e.Temporary()
		if err == nil {
			a.limit, a.length = limit, length
		}
	}
	f := &fit{
		max: a.limit, limit: usualLimit, message: float64(c.o.MaxMessage) * messageShare, each: a.each,
		top: c.o.MaxWindow, span: firstSpan, slots: parallel, parallel: parallel,
	}
	switch {
	case c.o.PageSize > 0:
		f.limit = c.o.PageSize
	case a.limit > 0:
		f.limit = largestPage
	}
	if a.limit > 0 {
		f.limit = min(f.limit, a.limit)
	}
	if a.length > 0 {
		f.top = min(f.top, a.length-hidden)
	}
	if a.span > 0 {
		f.span = a.span
	}
	f.span = min(f.span, f.top)
	return f
}

// keep remembers for the next range what this one learned.
func (a *abilities) keep(f *fit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.span, a.limit, a.each = f.span, f.max, f.each
}

// limits asks for the server's limits. It is one try: reading works without.
func (c *Client) limits(ctx context.Context) (entries int, length time.Duration, err error) {
	var answer struct {
		Limits struct {
			Entries int    `json:"max_entries_limit_per_query"`
			Length  string `json:"max_query_length"`
		}
	}
	answer.Limits.Entries = usualLimit // a server that does not publish this one
	r := &request{
		op: "limits", method: http.MethodGet, path: "/loki/api/v1/drilldown-limits",
		read: func(r io.Reader, _ string) error { return decodeJSON(r, &answer) },
	}
	err = c.once(ctx, r)
	if e := (*Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized && c.o.TenantID == "" {
		// Unlike queries, this wants a tenant of a Loki without any: its own name for none.
		r.header = map[string]string{"X-Scope-OrgID": "fake"}
		err = c.once(ctx, r)
	}
	if err != nil {
		return 0, 0, err
	}
	if answer.Limits.Entries <= 0 { // no limit
		answer.Limits.Entries = largestLimit
	}
	d, _ := model.ParseDuration(answer.Limits.Length) // "" or unknown: refusals will tell
	return answer.Limits.Entries, time.Duration(d), nil
}

const (
	firstSpan = time.Hour // Loki cuts queries at hours
	leastSpan = time.Second
	// growth is how much longer a window may become at once.
	growth = 4
	// messageShare of the largest message is what a page is made to fill: its
	// size is only foreseen.
	messageShare = 0.85
	// messageEntry is how many bytes more than in our answer an entry takes in
	// the JSON that Loki's parts exchange by default: 183 beside 149 in our
	// recordings of Loki 3.7.8.
	messageEntry = 40
	// telling is how many entries a page must have to tell their size.
	telling = 100
)

// fit is how much to ask for at once, for all fetches of one call of Range.
type fit struct {
	mu    sync.Mutex
	limit int // entries a page
	max   int // the server's limit, 0 while not met
	// message is how many bytes a page may have as Loki's parts exchange it, 0
	// for any: a larger one gets lost between them, and the request hangs until
	// it times out. each is what an entry has had.
	message, each float64
	// span is how long a window is asked for. Loki cuts a query into hours and
	// cancels what is left of them once the limit is reached, which costs it
	// dearly: windows are made so that a page about fills them.
	span time.Duration
	top  time.Duration // span's bound

	slots    int // requests at once
	parallel int // slots' bound
	good     int // answers since slots changed
}

// window gives the page to ask for and how long its window is.
func (f *fit) window() (limit int, span time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit = f.limit
	switch {
	case f.message <= 0:
	case f.each <= 0:
		limit = min(limit, usualLimit)
	default:
		limit = min(limit, max(1, int(f.message/f.each)))
	}
	return limit, f.span
}

// stretch gives how long a window may be asked for where pages shall be full:
// an hour, unless that was too much for the server.
func (f *fit) stretch() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.span, min(splitInterval, f.top))
}

// weigh takes note of the size of an answer as Loki's parts exchange it: it goes
// up at once, down by and by.
func (f *fit) weigh(bytes, entries int) {
	if f == nil || entries < telling {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	each := float64(bytes) / float64(entries)
	f.each = max(each, (f.each+each)/2)
}

// limits gives the page size and the server's limit.
func (f *fit) limits() (limit, maximum int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limit, f.max
}

// met notes the server's limit.
func (f *fit) met(limit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.max = max(limit, f.limit)
}

// width gives how many requests may run at once.
func (f *fit) width() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slots
}

// steady is how many answers it takes to run one more request at once after
// the server had too many.
const steady = 16

// learn takes note of n entries that a window asked for held, or, if they
// filled a page, the part of it that they covered.
func (f *fit) learn(n, limit int, covered time.Duration, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.good++; f.good >= steady && f.slots < f.parallel {
		f.good, f.slots = 0, f.slots+1
	}
	if !full && covered < f.span/2 {
		return // the end of the range: too short to tell
	}
	most := min(f.span*growth, f.top)
	want := most
	if n > 0 {
		if w := float64(covered) * float64(limit) / float64(n); w < float64(most) {
			want = time.Duration(w)
		}
	}
	f.span = min(max(want, leastSpan), f.top)
}

var limitWords = regexp.MustCompile(`max entries limit per query exceeded, limit > max_entries_limit(?:_per_query)? \((\d+) > (\d+)\)`)

// entryLimit finds the server's limit in its refusal; 0 where it does not say.
func entryLimit(err error) (limit int, tooLarge bool) {
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		return 0, false
	}
	if m := limitWords.FindStringSubmatch(e.Body); m != nil {
		limit, _ = strconv.Atoi(m[2])
	}
	return limit, strings.Contains(e.Body, "max entries limit")
}

// tooManyBytes tells that a page is too large, for Loki's parts among each
// other or for us.
func tooManyBytes(e *Error) bool {
	return errors.Is(e.Err, errTooLarge) || e.Status >= 400 && strings.Contains(e.Body, "larger than max")
}

// tooLong tells that the server refuses a query for its length.
func tooLong(e *Error) bool {
	return e.Status == http.StatusBadRequest &&
		(strings.Contains(e.Body, "query time range exceeds the limit") || strings.Contains(e.Body, "would read too many bytes"))
}

// tooSlow tells that a request ran out of time.
func tooSlow(e *Error) bool {
	if e.Status == 0 {
		var ne net.Error
		return errors.Is(e.Err, context.DeadlineExceeded) || errors.As(e.Err, &ne) && ne.Timeout()
	}
	return e.Status == http.StatusGatewayTimeout ||
		e.Status >= 500 && (strings.Contains(e.Body, "deadline exceeded") || strings.Contains(e.Body, "timeout") || strings.Contains(e.Body, "timed out"))
}

// tooMuch tells that the server has too many requests, each of which our
// query was cut into.
func tooMuch(e *Error) bool {
	return e.Status == http.StatusTooManyRequests || strings.Contains(e.Body, "too many outstanding requests")
}

// smaller makes of a page and a window what an error asks for. It gives them
// back as they are where nothing can be done.
func (f *fit) smaller(e *Error, limit int, span time.Duration) (int, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if top, is := entryLimit(e); is {
		if top <= 0 || top >= limit {
			top = limit / 2
		}
		if top > 0 {
			f.limit, f.max, limit = min(f.limit, top), top, top
		}
		return limit, span
	}
	if tooManyBytes(e) {
		limit = max(limit/2, 1)
		f.limit = min(f.limit, limit)
		return limit, span
	}
	busy := tooMuch(e)
	if busy {
		f.slots, f.good = max(f.slots/2, 1), 0
	}
	slow := tooSlow(e)
	if (tooLong(e) || slow || busy) && span > leastSpan {
		span = max(span/2, leastSpan)
		f.span = min(f.span, span)
		if !busy {
			f.top = min(f.top, span)
		}
	}
	return limit, span
}
