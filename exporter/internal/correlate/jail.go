package correlate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// jail is one jail of one host: its settings, its life, its ids.
type jail struct {
	h      *host
	name   string
	tracks map[string]*track

	banTime  ms // setting; permanent, or 0 where not known
	findTime ms
	maxRetry int
	learnt   spans // ban times seen from ban to expiry, where the setting is not known
	files    []string

	epoch      uint32 // counts the lives of the jail
	run        uint32 // the host's run of the present life
	createdAt  ms     // threshold for failures read again
	startedAt  ms     // of the present life; 0 where not seen
	stoppedAt  ms     // of the last life
	stoppedYet bool   // the jail was seen to stop
	stopping   ms     // the first line of the jail's stop
	liftedAt   ms     // the last time that a stop lifted a ban
	foundRun   uint32 // the last run in which this jail logged a Found, plus one
	foundLines bool   // this jail's log shows Found lines at all
	timed      bool   // with the failures' times: since 0.10
	firstLine  ms     // that named the jail
	lastLine   ms
	touched    ms // the last Restore or Ban since the start: the flood ends lost_settle after it

	restart   *restart // of the present life's start
	active    int      // tracks banned
	suspended int      // tracks lifted by a stop and not settled
	unbans    []*unban // that wait for what follows them
	held      []*unban // a jail's stop or `restart --unban`: whether the bans come back will tell
	waiting   []*banLine
	restores  []*restoreLine
	ends      ends // of running bans
	due       ms   // when the next of all this is settled; never where nothing waits
	proof     jailProof

	counts    Counts
	gaps      Histogram
	reoffence Histogram
}

func newJail(h *host, name string) *jail {
	return &jail{h: h, name: name, tracks: map[string]*track{}, due: never, gaps: newHistogram(GapBounds), reoffence: newHistogram(ReoffenceBounds)}
}

// GapBounds and ReoffenceBounds are the classic buckets, in seconds.
var (
	GapBounds       = []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400}
	ReoffenceBounds = []float64{60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 14 * 86400, 30 * 86400}
)

// running tells whether the jail runs, as far as the log says.
func (j *jail) running() Maybe[bool] {
	switch {
	case j.stopping != 0 || j.stoppedAt != 0:
		return Known(false)
	case j.startedAt == 0:
		return Maybe[bool]{}
	}
	return Known(j.run == j.h.run.epoch && j.h.run.exited == 0)
}

// wake makes sure that the jail is looked at once log time has passed at.
func (j *jail) wake(at ms) {
	j.due = min(j.due, at)
	j.h.due = min(j.h.due, at)
}

func (j *jail) created(at ms) {
	j.settleBans()
	j.files = nil
	j.createdAt = at
	j.epoch++
	j.banTime, j.findTime, j.maxRetry = 0, 0, 0
	j.proof = jailProof{created: j.h.line, stopped: j.proof.stopped}
}

// starts begins a life of the jail: what was suspended may now come back.
func (j *jail) starts(at ms) {
	if j.run != j.h.run.epoch {
		j.run = j.h.run.epoch
	} else if j.stoppedAt != 0 {
		j.restartedAlone(at)
	}
	j.startedAt, j.stopping, j.stoppedAt = at, 0, 0
	j.touched = at
	j.proof.started = j.h.line
	if j.suspended > 0 {
		j.wake(at + span(j.h.e.o.LostSettle))
	}
}

// restartedAlone notes the restart of one jail in a running server.
func (j *jail) restartedAlone(at ms) {
	kind := "jail"
	if j.h.reload.open && j.h.reload.all {
		kind = "reload"
	}
	r := &restart{scope: j.name, kind: kind, stopped: j.stoppedAt, started: at, seq: j.h.seq, certain: true, proof: lines(j.proof.stopped, j.h.line)}
	if j.stopping != 0 {
		r.stopped = j.stopping
	}
	for _, t := range j.tracks {
		if t.state == suspended && t.waits().restart == nil {
			r.take(t)
		}
	}
	j.restart = r
	j.h.noteRestart(r)
}

// stopBegins notes the first line of the jail's own stop.
func (j *jail) stopBegins(at ms) {
	if j.stopping != 0 || j.h.run.stopping != 0 {
		return
	}
	j.settleUnbans(endOfLog)
	j.stopping = at
}

// stops ends a life of the jail. Unbans that stood directly before it were the
// stop's; bans without an unban are lifted all the same.
func (j *jail) stops(at ms) {
	j.settleBans()
	cause, by := JailStop, byJailStop
	if j.h.run.stopping != 0 {
		cause, by = Shutdown, byStop
	}
	if j.stopping == 0 && cause == JailStop && len(j.files) == 0 {
		j.claimUnbans(at, JailStop)
	}
	j.settleUnbans(endOfLog)
	j.stoppedAt, j.stoppedYet = at, true
	j.proof.stopped = j.h.line
	for _, t := range j.sorted(func(t *track) bool { return t.state == active }) {
		j.suspend(t, at, by)
	}
}

// settleBans settles the bans that wait for the lines around them: a stop or
// a start is none of these.
func (j *jail) settleBans() {
	for _, b := range j.waiting {
		if b.t.waits().ban == b {
			j.settleBan(b.t)
		}
	}
	j.waiting = nil
}

// runBegins carries the jail's bans into a new run of the server.
func (j *jail) runBegins(old run, lift ms, ended Cause, r *restart) {
	j.settleHeld(heldAtEnd(&old))
	for _, t := range j.sorted(func(t *track) bool { return t.state != idle }) {
		switch t.state {
		case active:
			by := byUnknown
			switch ended {
			case CleanRestart:
				by = byStop
			case Crash:
				by = byCrash
			}
			j.suspendIn(t, lift, by, j.h.run.epoch-1)
		case suspended:
			t.absent = t.absent || j.missed(t, &old, lift)
		}
		if r != nil && t.waits().restart == nil {
			r.take(t)
		}
	}
	j.startedAt, j.stopping, j.stoppedAt, j.touched = 0, 0, 0, 0
	j.createdAt = j.h.run.started
	j.epoch++
	j.restart = nil
	if j.suspended > 0 {
		j.wake(j.h.run.started + span(j.h.e.o.LostSettle))
	}
}

// missed tells whether a suspended ban was not there in a run that had the time
// to bring it back: its jail was restarted without it, or not at all.
func (j *jail) missed(t *track, old *run, lift ms) bool {
	pause := span(j.h.e.o.StopPause)
	if j.startedAt != 0 && t.liftEpoch != j.epoch {
		return lift-j.touched >= pause
	}
	return j.startedAt == 0 && t.liftRun < old.epoch && old.lastJail != 0 && lift-old.lastJail >= pause
}

// suspend lifts a ban that is not over: by a stop, a jail's stop or a crash.
func (j *jail) suspend(t *track, at ms, by lift) {
	j.suspendIn(t, at, by, j.h.run.epoch)
}

// suspendIn lifts a ban in a given run of the host.
func (j *jail) suspendIn(t *track, at ms, by lift, run uint32) {
	j.resolve(t)
	t.freeze(j)
	t.settleRestart(func(*restart) {})
	if t.wait != nil {
		t.wait.again, t.wait.already = 0, 0
		t.tidy()
	}
	if t.state == active && t.since != 0 {
		t.banned += max(0, at-t.since)
	}
	j.setState(t, suspended)
	j.liftedAt = max(j.liftedAt, at)
	j.wake(at + span(j.h.e.o.LostSettle) + 1)
	t.lifted, t.liftedBy, t.liftEpoch, t.liftRun = at, by, j.epoch, run
	t.absent = false
}

// setState keeps count of who is banned and who is suspended.
func (j *jail) setState(t *track, s state) {
	switch t.state {
	case active:
		j.active--
	case suspended:
		j.suspended--
	}
	switch s {
	case active:
		j.active++
	case suspended:
		j.suspended++
	}
	t.state = s
}

func (j *jail) watches(file string) {
	if !slices.Contains(j.files, file) && len(j.files) < maxFiles {
		j.files = append(j.files, strings.Clone(file))
	}
}

// maxFiles bounds what a jail remembers of the files it watches.
const maxFiles = 64

func (j *jail) set(ev *fail2ban.Event) {
	switch ev.Kind {
	case fail2ban.SettingBanTime:
		j.banTime = permanent
		if ev.BanTime > 0 {
			j.banTime = span(ev.BanTime)
		}
		j.proof.banTime = j.h.line
		j.planAll()
	case fail2ban.SettingFindTime:
		j.findTime = span(ev.BanTime)
	case fail2ban.SettingMaxRetry:
		j.maxRetry = ev.Count
	}
}

// findWindow is the jail's find time, or fail2ban's default.
func (j *jail) findWindow() ms {
	if j.findTime > 0 {
		return j.findTime
	}
	return span(10 * time.Minute)
}

// presentBanTime is the jail's ban time and where it is known from.
func (j *jail) presentBanTime() (ms, source) {
	if j.banTime != 0 {
		return j.banTime, fromSettings
	}
	if d := j.learnt.agreed(); d != 0 {
		return d, fromLearnt
	}
	return 0, fromUnknown
}

// learn takes a span from ban to expiry where the ban time is not known.
func (j *jail) learn(d ms) {
	before := j.learnt.agreed()
	j.learnt.add(d)
	if j.learnt.agreed() != before {
		j.planAll()
	}
}

func (j *jail) track(id string) *track {
	t, ok := j.tracks[id]
	if !ok {
		id = strings.Clone(id)
		t = &track{id: id}
		j.tracks[id] = t
		j.h.e.keys++
	}
	return t
}

// sorted lists the tracks that fit, by id, so that what is said of them comes
// in one order.
func (j *jail) sorted(fits func(*track) bool) []*track {
	var out []*track
	for _, t := range j.tracks {
		if fits(t) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *track) int { return cmp.Compare(a.id, b.id) })
	return out
}

// settle says what the passing of log time has proved.
func (j *jail) settle(to ms) {
	j.due = never
	o := &j.h.e.o
	if len(j.unbans) > 0 {
		if at := j.quietAt(); to > at {
			j.settleUnbans(endOfLog)
		} else {
			j.settleOldUnbans(to - longestStop)
			j.wake(min(at, j.unbans[0].at+longestStop) + 1)
		}
	}
	j.settleWaiting(to)
	if j.suspended > 0 && j.h.run.stopping == 0 {
		if at := j.floodEnd(); to > at {
			j.settleLost()
		} else {
			j.wake(at + 1)
		}
	}
	j.expireOverdue(to - span(o.ExpectedEndGrace))
}

// quietAt is when the waiting unbans can no longer be a stop's: that logs them
// back to back. A run that goes on in other jails is waited for, within bounds.
func (j *jail) quietAt() ms {
	last := j.unbans[len(j.unbans)-1].at
	if run := j.h.unbans.last; run-last <= longestRun {
		last = max(last, run)
	}
	return last + span(j.h.e.o.StopPause)
}

// longestRun bounds how long the unbans of one jail wait for those of others:
// with slow actions `unban --all` takes seconds (500 unbans took 7 s in our
// recording).
const longestRun ms = 60_000

// longestStop bounds how long an unban waits for what follows it: where bans run
// out all the time there is never a pause. 500 unbans took 7 s in our recording.
const longestStop ms = 10 * 60_000

// settleOldUnbans settles the unbans up to a time; the newest of them waits on.
func (j *jail) settleOldUnbans(upTo ms) {
	n := 0
	for n < len(j.unbans)-1 && j.unbans[n].at <= upTo {
		n++
	}
	if n > 0 {
		j.settleUnbans(j.unbans[n-1].seq)
	}
}

// floodEnd is when the restores after a start are over.
func (j *jail) floodEnd() ms {
	from := max(j.touched, j.liftedAt) // a stop may take its time
	if j.startedAt == 0 || j.stoppedAt != 0 {
		from = max(from, j.h.run.lastJail, j.stoppedAt)
		if j.startedAt == 0 && j.h.run.lastJail == 0 {
			return never // no jail of this run has started yet
		}
	}
	return from + span(j.h.e.o.LostSettle)
}

// expireOverdue ends the bans whose end passed before a time without a line.
func (j *jail) expireOverdue(before ms) {
	for len(j.ends) > 0 && j.ends[0].at < before {
		p := j.ends.pop()
		end := p.t.end(j)
		switch {
		case p.t.state != active || end == 0 || end == never:
		case end < before:
			j.closeExpected(p.t, end)
		case end > p.at: // it has moved
			j.ends.push(planned{end, p.t})
		}
	}
	if len(j.ends) > 0 {
		j.wake(j.ends[0].at + span(j.h.e.o.ExpectedEndGrace) + 1)
	}
}

// plan notes when a running ban is due to end.
func (j *jail) plan(t *track) {
	if end := t.end(j); end != 0 && end != never && t.state == active {
		j.ends.push(planned{end, t})
		j.wake(end + span(j.h.e.o.ExpectedEndGrace) + 1)
	}
}

// planAll plans all running bans anew: the jail's ban time has changed.
func (j *jail) planAll() {
	j.ends = j.ends[:0]
	for _, t := range j.tracks {
		j.plan(t)
	}
}

// finish settles everything as of the end of the input.
func (j *jail) finish(at ms) {
	j.settleUnbans(endOfLog)
	j.settleWaiting(never)
	if j.suspended > 0 && j.h.run.stopping == 0 && j.floodEnd() != never {
		j.settleLost()
	}
	j.settleHeld(heldAtEnd(&j.h.run))
	j.expireOverdue(at - span(j.h.e.o.ExpectedEndGrace))
	for _, t := range j.sorted(func(t *track) bool { return t.state == suspended }) {
		if end := t.end(j); end != 0 && end+span(j.h.e.o.ExpectedEndGrace) < at {
			j.closeExpected(t, end)
		}
	}
	j.due = never
}

// spans remembers the last spans from ban to expiry.
type spans struct {
	last [5]ms
	n    int
}

func (s *spans) add(d ms) {
	s.last[s.n%len(s.last)] = d
	s.n++
}

// agreed is the ban time that most of the last spans show, to the second;
// 0 while fewer than three agree.
func (s *spans) agreed() ms {
	for i := range min(s.n, len(s.last)) {
		same := 0
		for k := range min(s.n, len(s.last)) {
			if d := s.last[k] - s.last[i]; d >= 0 && d < 2000 {
				same++
			}
		}
		if same >= 3 {
			return s.last[i] / 1000 * 1000
		}
	}
	return 0
}
