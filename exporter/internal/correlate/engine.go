// Package correlate turns the events of fail2ban's log into what happened.
//
// A log line says `Ban`, `Unban`, `Restore Ban`; whether that was an offence,
// an expiry or a restart shows only in its neighbours. The Engine keeps, per
// host, the server's run, its jails and each id's ban, and says each verdict
// once, when the log has proved it.
//
// The package is pure: no clock, no IO, no goroutines. Log time is per host
// and comes with the events (Add) or from outside (Advance, for a silent
// host); the same events in the same order give the same findings, however
// they were cut into batches.
package correlate

import (
	"maps"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// Options are the durations of the rules and what the engine shall say.
// The zero value of a duration takes its default.
type Options struct {
	// OrderWindow is how far the lines of one id may be out of order without
	// changing a verdict. Default 2 s.
	OrderWindow time.Duration
	// LostSettle is how long a jail must have logged neither a restore nor a
	// ban after its start before the bans that did not come back are lost.
	// Default 120 s.
	LostSettle time.Duration
	// FailedAgainWindow is how long after a restore a failure still says that
	// the attacker had come back. Default 10 min.
	FailedAgainWindow time.Duration
	// PrematureWindow is how soon after a manual unban a new ban makes it
	// premature. Default 24 h.
	PrematureWindow time.Duration
	// ExpiryTolerance is how much before its computed end an unban may come
	// and still be the ban's expiry: failures are logged in whole seconds.
	// Default 1 s.
	ExpiryTolerance time.Duration
	// ExpectedEndGrace is how long after its computed end a ban without an
	// unban in the log counts as ended. Default 5 min.
	ExpectedEndGrace time.Duration
	// StopPause is the longest pause between the unbans of a jail's stop,
	// where only their place before `Jail 'J' stopped` tells them. Default 2 s.
	StopPause time.Duration
	// BannedGrace is how long after a ban failures may still arrive without
	// telling that the ban does not hold. Default 5 s.
	BannedGrace time.Duration

	// Events makes a finding of every event, for reports; the daemon counts them only.
	Events bool
	// Open makes a finding of every ban at its start too.
	Open bool
	// Failing counts for each report the ids that fail now. It takes a look at
	// each id.
	Failing bool
	// Rows keeps ended bans at hand until their id fails again, so that a
	// report can say NextFailure.
	Rows bool
	// Explain gives findings the lines that prove them. Events must bear
	// their Text.
	Explain bool
	// Observe, where set, is called for each counted failure, true ban and
	// restore: what the offender ranking is made of.
	Observe func(Observation)
	// MaxKeys bounds how many ids in jails of hosts are kept; 0 is no bound.
	// Beyond it those that tell least are forgotten: see forget.go.
	MaxKeys int
	// Forgot, where set, is told how many were forgotten.
	Forgot func(keys int)
}

// Observation is one fact about an id, for the ranking.
type Observation struct {
	Kind     ObservationKind
	Host     string
	Jail, ID string
	Time     time.Time
	// Delay since the last true end, for bans; OK where there was one.
	Delay Maybe[time.Duration]
	// Manual says that an administrator banned.
	Manual bool
	// True says of an end that protection truly ended: the ban expired, or an
	// administrator lifted it.
	True bool
}

// ObservationKind says what was observed.
type ObservationKind uint8

// The observations.
const (
	SawFailure ObservationKind = iota
	SawBan                     // a true ban
	SawRestore
	SawGapFailure
	SawEnd // of a ban, in whatever way
)

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		at *time.Duration
		to time.Duration
	}{
		{&o.OrderWindow, 2 * time.Second},
		{&o.LostSettle, 120 * time.Second},
		{&o.FailedAgainWindow, 10 * time.Minute},
		{&o.PrematureWindow, 24 * time.Hour},
		{&o.ExpiryTolerance, time.Second},
		{&o.ExpectedEndGrace, 5 * time.Minute},
		{&o.StopPause, 2 * time.Second},
		{&o.BannedGrace, 5 * time.Second},
	} {
		if *d.at == 0 {
			*d.at = d.to
		}
	}
	return o
}

// Engine correlates the events of any number of hosts, which share nothing.
type Engine struct {
	o        Options
	hosts    map[string]*host
	findings []Finding
	usual    int // findings at the last call for them
	keys     int // ids in jails of hosts
	crowded  int // keys beyond which forgetting is worth another look
}

// NewEngine makes an engine that has seen nothing.
func NewEngine(o Options) *Engine {
	return &Engine{o: o.withDefaults(), hosts: map[string]*host{}}
}

// Add takes one event of a host, in the order of its log.
func (e *Engine) Add(hostName string, ev *fail2ban.Event) {
	e.host(hostName).add(ev)
	e.crowd()
}

// Keys counts the ids in jails of hosts that state is kept of.
func (e *Engine) Keys() int { return e.keys }

// Advance says that a host's log time has passed to, though it logged nothing:
// what waits for later lines is settled as of then.
func (e *Engine) Advance(hostName string, to time.Time) {
	if h, ok := e.hosts[hostName]; ok {
		h.advance(msOf(to))
	}
}

// Finish settles everything as of the end of the input: no more lines will come.
func (e *Engine) Finish(at time.Time) {
	for _, name := range slices.Sorted(maps.Keys(e.hosts)) {
		e.hosts[name].finish(msOf(at))
	}
}

// Part is an engine of some of the hosts, which stay this one's: to write them
// apart and at once. Nothing may be added to either meanwhile.
func (e *Engine) Part(hosts []string) *Engine {
	p := &Engine{o: e.o, hosts: make(map[string]*host, len(hosts))}
	for _, name := range hosts {
		if h := e.hosts[name]; h != nil {
			p.hosts[name] = h
			p.keys += p.HostKeys(name)
		}
	}
	return p
}

// Adopt takes over the hosts of another engine, in the place of its own of the
// same names. The other one must not be used any more.
func (e *Engine) Adopt(other *Engine) {
	for name, h := range other.hosts {
		e.keys -= e.HostKeys(name)
		h.e = e
		e.hosts[name] = h
		e.keys += e.HostKeys(name)
	}
	e.findings = append(e.findings, other.findings...)
}

// Drop forgets a host.
func (e *Engine) Drop(hostName string) {
	e.keys -= e.HostKeys(hostName)
	delete(e.hosts, hostName)
}

// HostKeys counts the ids in jails of a host that state is kept of.
func (e *Engine) HostKeys(hostName string) (n int) {
	if h := e.hosts[hostName]; h != nil {
		for _, j := range h.jails {
			n += len(j.tracks)
		}
	}
	return n
}

// Findings returns what was said since the last call. The slice is the caller's.
func (e *Engine) Findings() []Finding {
	f := e.findings
	e.findings, e.usual = nil, len(f)
	return f
}

// Pending counts the findings not yet taken.
func (e *Engine) Pending() int { return len(e.findings) }

// Newest is the newest log time over all hosts, zero before any event.
func (e *Engine) Newest() time.Time {
	var newest ms
	for _, h := range e.hosts {
		newest = max(newest, h.clock)
	}
	return newest.time()
}

// Hosts lists the hosts seen so far, by name.
func (e *Engine) Hosts() []string { return slices.Sorted(maps.Keys(e.hosts)) }

// HostClock is a host's newest log time.
func (e *Engine) HostClock(hostName string) time.Time {
	if h, ok := e.hosts[hostName]; ok {
		return h.clock.time()
	}
	return time.Time{}
}

func (e *Engine) host(name string) *host {
	h, ok := e.hosts[name]
	if !ok {
		name = strings.Clone(name)
		h = &host{e: e, name: name, jails: map[string]*jail{}, due: never}
		e.hosts[name] = h
	}
	return h
}

func (e *Engine) say(f Finding) {
	if e.findings == nil {
		e.findings = make([]Finding, 0, max(e.usual, 8))
	}
	e.findings = append(e.findings, f)
}

// ms is a time in Unix milliseconds, fail2ban's own resolution; 0 is not known.
type ms int64

func msOf(t time.Time) ms {
	if t.IsZero() {
		return 0
	}
	return ms(t.UnixMilli())
}

func span(d time.Duration) ms { return ms(d / time.Millisecond) }

func (m ms) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(m)).UTC()
}

func (m ms) duration() time.Duration { return time.Duration(m) * time.Millisecond }

// permanent stands for a ban time without an end.
const permanent ms = -1

// never is later than every log.
const never ms = 1 << 60
