package lab

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fleet is a generated fleet of hosts under attack, the same for the same
// values: what fail2ban 1.0.2 would log in containers, so that each has the
// process id 1, with a restart of each host now and then and an hourly rotation
// that all hosts log at the same instant in the same words.
type Fleet struct {
	Hosts, Jails int
	Days         int
	Lines        int // about, over all
	From         time.Time
	Seed         uint64
	IDs          int           // addresses that attack; 60,000 when 0
	BanTime      time.Duration // ten minutes when 0
}

// Tally is what truly happened in a jail of a host of a Fleet.
type Tally struct {
	Bans, Restores, Expired, Shutdown, Failures int
}

// FleetTruth is what truly happened, by host and jail ("web-01/sshd").
type FleetTruth map[string]*Tally

// fleetTick keeps bans and unbans apart: of an unban and a ban of one address in
// one millisecond, Loki does not tell which was first.
const fleetTick = 10 * time.Millisecond

// fleetRestart is how long a server runs, about.
const fleetRestart = 40 * time.Hour

var fleetJails = []string{"sshd", "nginx-http-auth", "postfix-sasl", "dovecot", "recidive-web", "wordpress"}

// All gives the fleet's lines in the order of time, and notes in truth what
// they mean.
func (f Fleet) All(truth FleetTruth) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		next := make([]func() (Line, bool), f.Hosts)
		heads := make(lineHeap, 0, f.Hosts)
		for i := range next {
			h := f.host(i, truth)
			var stop func()
			next[i], stop = iter.Pull(h.lines)
			defer stop()
			if l, ok := next[i](); ok {
				heads = append(heads, headLine{l, i})
			}
		}
		heap.Init(&heads)
		for len(heads) > 0 {
			head := heads[0]
			if !yield(head.Line) {
				return
			}
			l, ok := next[head.host]()
			if !ok {
				heap.Pop(&heads)
				continue
			}
			heads[0].Line = l
			heap.Fix(&heads, 0)
		}
	}
}

// Follow writes a fleet's lines into Loki as their time comes, until ctx ends.
func Follow(ctx context.Context, lokiURL, tenant string, f Fleet) error {
	var due []Line
	for l := range f.All(FleetTruth{}) {
		for l.Time.After(time.Now()) {
			if err := Push(ctx, lokiURL, tenant, Spread(1), due); err != nil && ctx.Err() == nil {
				return err
			}
			due = due[:0]
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pollInterval * 4):
			}
		}
		due = append(due, l)
	}
	return nil
}

// headLine is the next line of a host.
type headLine struct {
	Line
	host int
}

type lineHeap []headLine

func (h lineHeap) Len() int { return len(h) }
func (h lineHeap) Less(i, k int) bool {
	return cmp.Or(h[i].Time.Compare(h[k].Time), cmp.Compare(h[i].host, h[k].host)) < 0
}
func (h lineHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *lineHeap) Push(x any)   { *h = append(*h, x.(headLine)) }
func (h *lineHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// fleetHost is one host while its log is made.
type fleetHost struct {
	f       Fleet
	name    string
	rand    *rand.Rand
	truth   FleetTruth
	pending pendingHeap // what is going to happen
	seq     int
	banned  map[fleetBan]time.Time // until
	pause   time.Duration          // between two attacks, on average
	yield   func(Line) bool
	ended   bool
	run     int // of the server
}

type fleetBan struct{ jail, ip string }

// pendingEvent happens at a time.
type pendingEvent struct {
	at  time.Time
	seq int
	do  func(at time.Time)
}

type pendingHeap []pendingEvent

func (h pendingHeap) Len() int { return len(h) }
func (h pendingHeap) Less(i, k int) bool {
	return cmp.Or(h[i].at.Compare(h[k].at), cmp.Compare(h[i].seq, h[k].seq)) < 0
}
func (h pendingHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *pendingHeap) Push(x any)   { *h = append(*h, x.(pendingEvent)) }
func (h *pendingHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func (f Fleet) host(i int, truth FleetTruth) *fleetHost {
	f.IDs, f.BanTime = cmp.Or(f.IDs, 60_000), cmp.Or(f.BanTime, 10*time.Minute)
	h := &fleetHost{
		f: f, name: fmt.Sprintf("web-%02d", i+1), rand: rand.New(rand.NewPCG(f.Seed, uint64(i))), truth: truth, banned: map[fleetBan]time.Time{},
	}
	// an attack is three failures, a ban and its end
	attacks := max(1, f.Lines/(5*f.Hosts))
	h.pause = time.Duration(f.Days) * 24 * time.Hour / time.Duration(attacks)
	return h
}

func (h *fleetHost) at(t time.Time, do func(at time.Time)) {
	h.seq++
	heap.Push(&h.pending, pendingEvent{t.Truncate(time.Millisecond), h.seq, do})
}

// lines plays the host's days.
func (h *fleetHost) lines(yield func(Line) bool) {
	h.yield = yield
	end := h.f.From.Add(time.Duration(h.f.Days) * 24 * time.Hour)
	h.start(h.f.From)
	for hour := h.f.From.Truncate(time.Hour).Add(time.Hour); hour.Before(end); hour = hour.Add(time.Hour) {
		h.at(hour, func(at time.Time) { h.log(at, "server", "INFO", "rollover performed on /var/log/fail2ban.log") })
	}
	h.next(h.f.From.Add(10 * time.Second))
	h.at(h.f.From.Add(h.spread(fleetRestart)), h.stop)
	for len(h.pending) > 0 && !h.ended {
		e := heap.Pop(&h.pending).(pendingEvent)
		if !e.at.Before(end) {
			return
		}
		e.do(e.at)
	}
}

// spread is a time of so much on average.
func (h *fleetHost) spread(mean time.Duration) time.Duration {
	return time.Duration(h.rand.ExpFloat64()*float64(mean)) + time.Millisecond
}

func (h *fleetHost) log(at time.Time, from, level, text string) {
	line := fmt.Sprintf("%s,%03d fail2ban.%-15s [1]: %-7s %s", at.Format(stampLayout), at.Nanosecond()/1e6, from, level, text)
	if !h.ended && !h.yield(Line{Host: h.name, Time: at, Text: line}) {
		h.ended = true
	}
}

func (h *fleetHost) tally(jail string) *Tally {
	key := h.name + "/" + jail
	t := h.truth[key]
	if t == nil {
		t = &Tally{}
		h.truth[key] = t
	}
	return t
}

// next lets the next attack come, of an address that is not banned.
func (h *fleetHost) next(after time.Time) {
	at := after.Add(h.spread(h.pause)).Truncate(fleetTick)
	jail := fleetJails[h.rand.IntN(h.f.Jails)]
	// few come often and from everywhere, many once
	n := min(uint32(h.rand.ExpFloat64()*float64(h.f.IDs)/30), uint32(h.f.IDs-1))
	ip := fmt.Sprintf("198.%d.%d.%d", 18+n>>15&1, n>>7&255, 1+n&127)
	h.at(at, func(at time.Time) {
		h.next(at)
		if _, is := h.banned[fleetBan{jail, ip}]; !is {
			h.attack(at, fleetBan{jail, ip})
		}
	})
}

// attack is three failures within a second, and the ban.
func (h *fleetHost) attack(at time.Time, b fleetBan) {
	run := h.run // a stop forgets the failures
	for i := range 3 {
		at := at.Add(time.Duration(i) * 300 * time.Millisecond)
		h.at(at, func(at time.Time) {
			if _, is := h.banned[b]; is || h.run != run {
				return
			}
			h.tally(b.jail).Failures++
			h.log(at, "filter", "INFO", fmt.Sprintf("[%s] Found %s - %s", b.jail, b.ip, at.Format(stampLayout)))
			if i == 2 {
				h.at(at.Add(200*time.Millisecond), func(now time.Time) {
					if h.run == run {
						h.ban(now, b, at.Truncate(time.Second).Add(h.f.BanTime))
					}
				})
			}
		})
	}
}

func (h *fleetHost) ban(at time.Time, b fleetBan, until time.Time) {
	if _, is := h.banned[b]; is {
		return
	}
	h.tally(b.jail).Bans++
	h.banned[b] = until
	h.log(at, "actions", "NOTICE", fmt.Sprintf("[%s] Ban %s", b.jail, b.ip))
	h.expire(b, until)
}

// expire lets a ban end within a second of its time.
func (h *fleetHost) expire(b fleetBan, until time.Time) {
	h.at(until.Add(time.Duration(h.rand.IntN(100))*fleetTick+fleetTick/2), func(at time.Time) {
		if h.banned[b] != until {
			return
		}
		delete(h.banned, b)
		h.tally(b.jail).Expired++
		h.log(at, "actions", "NOTICE", fmt.Sprintf("[%s] Unban %s", b.jail, b.ip))
	})
}

// active are the bans in force, in the order of their jails and addresses.
func (h *fleetHost) active() (out []fleetBan) {
	for b := range h.banned {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b fleetBan) int { return cmp.Or(strings.Compare(a.jail, b.jail), strings.Compare(a.ip, b.ip)) })
	return out
}

// stop ends the server cleanly. A minute later at most it starts again, with
// the bans that are not over.
func (h *fleetHost) stop(at time.Time) {
	if at.Add(time.Minute).After(h.f.From.Add(time.Duration(h.f.Days) * 24 * time.Hour)) {
		return // it would start again after the end
	}
	active := h.active()
	h.run++
	h.log(at, "server", "INFO", "Shutdown in progress...")
	h.log(at.Add(time.Millisecond), "observer", "INFO", "Observer stop ... try to end queue 5 seconds")
	h.log(at.Add(20*time.Millisecond), "observer", "INFO", "Observer stopped, 0 events remaining.")
	h.log(at.Add(60*time.Millisecond), "server", "INFO", "Stopping all jails")
	at = at.Add(200 * time.Millisecond)
	for i, jail := range fleetJails[:h.f.Jails] {
		h.log(at, "actions", "NOTICE", fmt.Sprintf("[%s] Flush ticket(s) with flush", jail))
		for _, b := range active {
			if b.jail == jail {
				at = at.Add(time.Millisecond)
				h.tally(jail).Shutdown++
				h.log(at, "actions", "NOTICE", fmt.Sprintf("[%s] Unban %s", jail, b.ip))
			}
		}
		at = at.Add(time.Duration(10+i) * time.Millisecond)
		h.log(at, "jail", "INFO", fmt.Sprintf("Jail '%s' stopped", jail))
	}
	at = at.Add(5 * time.Millisecond)
	h.log(at, "database", "INFO", "Connection to database closed.")
	h.log(at, "server", "INFO", "Exiting Fail2ban")
	at = at.Add(5 * time.Second).Add(min(h.spread(10*time.Second), 40*time.Second))
	h.later(at.Add(5 * time.Second))
	h.start(at)
}

// later puts off what would happen while the server is down.
func (h *fleetHost) later(until time.Time) {
	for i := range h.pending {
		if e := &h.pending[i]; e.at.Before(until) {
			e.at = until.Truncate(fleetTick).Add(time.Duration(1+e.seq%100)*fleetTick + e.at.Sub(e.at.Truncate(fleetTick)))
		}
	}
	heap.Init(&h.pending)
}

// start starts the server and restores the bans that are not over.
func (h *fleetHost) start(at time.Time) {
	h.log(at, "server", "INFO", strings.Repeat("-", 50))
	h.log(at, "server", "INFO", "Starting Fail2ban v1.0.2")
	h.log(at.Add(5*time.Millisecond), "observer", "INFO", "Observer start...")
	h.log(at.Add(9*time.Millisecond), "database", "INFO", "Connected to fail2ban persistent database '/var/lib/fail2ban/fail2ban.sqlite3'")
	jails := fleetJails[:h.f.Jails]
	for _, jail := range jails {
		at = at.Add(20 * time.Millisecond)
		h.log(at, "jail", "INFO", fmt.Sprintf("Creating new jail '%s'", jail))
		h.log(at, "jail", "INFO", fmt.Sprintf("Jail '%s' uses poller {}", jail))
		h.log(at, "filter", "INFO", "  maxRetry: 3")
		h.log(at, "filter", "INFO", "  findtime: 600")
		h.log(at, "actions", "INFO", fmt.Sprintf("  banTime: %d", int(h.f.BanTime.Seconds())))
		h.log(at, "filter", "INFO", fmt.Sprintf("Added logfile: '/var/log/%s.log' (pos = 0, hash = )", jail))
	}
	for _, jail := range jails {
		at = at.Add(5 * time.Millisecond)
		h.log(at, "jail", "INFO", fmt.Sprintf("Jail '%s' started", jail))
	}
	at = at.Add(100 * time.Millisecond)
	for _, b := range h.active() {
		until := h.banned[b]
		if !until.After(at.Add(time.Second)) {
			delete(h.banned, b)
			continue
		}
		at = at.Add(time.Millisecond)
		h.tally(b.jail).Restores++
		h.log(at, "actions", "NOTICE", fmt.Sprintf("[%s] Restore Ban %s", b.jail, b.ip))
	}
	if at.After(h.f.From.Add(time.Minute)) {
		h.at(at.Add(time.Minute).Add(h.spread(fleetRestart)), h.stop)
	}
}
