package correlate

import (
	"slices"
	"strings"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// host is one host's server, jails and bans.
type host struct {
	e         *Engine
	name      string
	seq       uint64 // events so far: the order of the log
	first     ms     // the first line
	clock     ms     // the newest log time
	last      ms     // the newest line of the present run
	lastOther ms     // the newest line that is no event, and may be the next run's

	run     run
	reload  reload
	version string
	block   *jail // whose settings lines follow
	jails   map[string]*jail
	order   []*jail // by name
	due     ms      // the earliest of its jails' dues

	line   Line // the line at hand, where verdicts are explained
	proof  hostProof
	unbans unbanRun
	byHand dailyUnbans

	restarts  []*restart // not yet said
	counts    [3]uint64  // server restarts: clean crash unknown
	lifecycle uint64
	informed  bool // lines of level INFO are in the log, the server's life among them
	settings  bool
	events    uint64

	seenBefore bool // lines stood before the first start
	stale      bool // a start found the socket of a crash, and the run is yet to show
}

// run is one life of the server.
type run struct {
	epoch    uint32 // counts the runs; 0 is the one whose start is not in the log
	started  ms     // 0 where not seen
	inferred bool   // known by a new pid alone
	pid      int
	thread   string // the main thread's number, where the form shows it
	database bool   // it keeps bans in a database
	stopping ms     // the stop's first line
	exited   ms     // `Exiting Fail2ban`
	lastJail ms     // last start of a jail in this run
	ended    Cause  // how the run before ended: CleanRestart, Crash, CauseUnknown
}

// reload is the block between "Reload ..." and "Reload finished.".
type reload struct {
	open     bool
	all      bool
	jail     string // of "Reload jail J"
	listed   bool   // the first "Reload jail 'J'" was seen
	stopping bool   // "Stopping all jails" inside: reload --restart
}

func (h *host) add(ev *fail2ban.Event) {
	at := msOf(ev.Time)
	if at == 0 {
		return
	}
	h.seq++
	if h.first == 0 {
		h.first = at
	}
	if h.e.o.Explain {
		h.line = Line{Time: ev.Time, Text: ev.Text, seq: h.seq}
	}
	h.noticeRun(ev, at)
	// What was waiting for this much log time is settled before the line is
	// looked at, so that it cannot depend on what came after.
	if !h.foreshadows(ev) {
		h.advance(at)
	}
	defer h.notice(ev, at)
	if ev.Kind != fail2ban.Other {
		h.events++
	}
	switch {
	case ev.Kind.HasID():
		h.idEvent(ev, at)
	case ev.Kind >= fail2ban.ServerStart && ev.Kind <= fail2ban.SettingIncrement:
		h.lifecycleEvent(ev, at)
	case ev.Kind == fail2ban.Flush:
		if j := h.jail(ev.Jail); j != nil {
			j.counts.Verbs[verbFlush]++
		}
	}
}

// notice keeps the last line of the run. Lines that are no events count once an
// event of the same run has followed: what stands directly before a start (a
// line of dashes, complaints about the configuration) is the new run's.
func (h *host) notice(ev *fail2ban.Event, at ms) {
	if ev.Kind == fail2ban.Other || h.foreshadows(ev) {
		h.lastOther = max(h.lastOther, at)
		return
	}
	h.proof.last = h.line
	h.last = max(h.last, h.lastOther, at)
}

// noticeRun sees a new run by its process id, which is all that remains of a
// restart at log level NOTICE. Where the start line is in the log, it decides.
func (h *host) noticeRun(ev *fail2ban.Event, at ms) {
	if ev.PID == 0 {
		return
	}
	if h.run.pid != 0 && h.run.pid != ev.PID && ev.Kind != fail2ban.ServerStart && h.opensRun(ev, at) {
		h.beginRun(ev, at, true)
	}
	if h.run.pid == 0 {
		h.run.pid = ev.PID
	}
}

// opensRun tells whether an event of another process can stand for a new run.
// The client logs a few lines of its own process before the server's, and two
// servers in one stream must not make a run of every line.
func (h *host) opensRun(ev *fail2ban.Event, at ms) bool {
	if at-h.run.started <= span(h.e.o.OrderWindow) {
		return false
	}
	return ev.Kind.HasID() || ev.Kind == fail2ban.JailStarted
}

// foreshadows tells a line of a process whose run has not shown itself yet: at log
// level NOTICE, where the next event of it will tell how the last run ended.
func (h *host) foreshadows(ev *fail2ban.Event) bool {
	return !h.informed && ev.PID != 0 && ev.PID != h.run.pid && !ev.Kind.HasID()
}

func (h *host) lifecycleEvent(ev *fail2ban.Event, at ms) {
	h.lifecycle++
	if ev.Kind != fail2ban.DatabaseCreated && ev.Kind != fail2ban.AlreadyRunning { // which are logged at level NOTICE too
		h.informed = true
	}
	switch ev.Kind {
	case fail2ban.ServerStart:
		if fail2ban.LegacyVersion(ev.Version) && h.run.epoch > 0 && h.run.exited == 0 && h.run.pid == ev.PID && h.run.started != 0 {
			return // the logging target changed in a running server
		}
		h.beginRun(ev, at, false)
		h.occur(at, "server_start", "", "", "")
	case fail2ban.ShutdownBegun:
		h.stopBegins(at)
	case fail2ban.StoppingJails:
		if h.reload.open {
			h.reload.stopping = true
			for _, j := range h.sortedJails() {
				j.stopBegins(at)
			}
			return
		}
		h.stopBegins(at)
	case fail2ban.ServerExited:
		h.stopBegins(at)
		h.run.exited = at
		for _, j := range h.sortedJails() {
			j.settleHeld(Shutdown, Certain)
		}
		h.proof.exit = h.line
		h.occur(at, "server_stop", "", "", "")
	case fail2ban.ReloadAll, fail2ban.ReloadJail:
		h.reload = reload{open: true, all: ev.Kind == fail2ban.ReloadAll, jail: strings.Clone(ev.Jail)}
		h.occur(at, "reload", ev.Jail, "", "")
	case fail2ban.ReloadFinished:
		h.reload = reload{}
		h.block = nil
	case fail2ban.WatchEnded:
		h.watchEnds(ev.Detail, at)
	case fail2ban.DatabaseOpened, fail2ban.DatabaseCreated:
		h.run.database = true
	case fail2ban.AlreadyRunning:
		h.stale = true
	default:
		h.jailLifecycle(ev, at)
	}
}

func (h *host) jailLifecycle(ev *fail2ban.Event, at ms) {
	switch ev.Kind {
	case fail2ban.JailCreated:
		if h.run.exited == 0 && h.run.stopping != 0 {
			h.run.stopping = 0 // 0.8 and 0.9 stop all jails in a reload too, and go on
			for _, j := range h.sortedJails() {
				j.wake(at)
				j.settleHeld(JailStop, Certain)
			}
		}
		if j := h.jail(ev.Jail); j != nil {
			h.block = j
			j.created(at)
		}
	case fail2ban.JailReloading:
		h.reload.listed = true
		h.block = h.jail(ev.Jail)
	case fail2ban.JailReloaded:
		h.block = nil
	case fail2ban.JailStarted:
		if j := h.jail(ev.Jail); j != nil {
			h.block = nil // what is set from now on is set at run time
			h.run.lastJail = at
			j.starts(at)
			for _, other := range h.jails { // may never start again
				if other.suspended > 0 {
					other.wake(at + span(h.e.o.LostSettle) + 1)
				}
			}
			h.occur(at, "jail_start", j.name, "", "")
		}
	case fail2ban.JailStopped:
		if j := h.jail(ev.Jail); j != nil {
			j.stops(at)
			h.occur(at, "jail_stop", j.name, "", "")
		}
	case fail2ban.WatchBegun:
		if h.block != nil {
			h.block.watches(ev.Detail)
		}
	case fail2ban.SettingBanTime, fail2ban.SettingFindTime, fail2ban.SettingMaxRetry, fail2ban.SettingIncrement:
		h.setting(ev)
	}
}

// setting takes a jail's setting. At run time (`set J maxretry N`) the line names
// no jail: where there are several, how far they count is not known any more.
func (h *host) setting(ev *fail2ban.Event) {
	j := h.block
	if j == nil && len(h.jails) == 1 {
		for _, j = range h.jails {
		}
	}
	if j != nil {
		h.settings = true
		j.set(ev)
		return
	}
	if ev.Kind == fail2ban.SettingMaxRetry {
		for _, j := range h.jails {
			j.maxRetry = 0
		}
	}
}

// stopBegins notes the first line of the server's stop. Unbans that waited for
// what follows them stood before it: they were none of its.
func (h *host) stopBegins(at ms) {
	if h.run.stopping != 0 {
		return
	}
	h.run.stopping = at
	h.proof.stop = h.line
	for _, j := range h.sortedJails() {
		j.settleUnbans(endOfLog)
	}
}

// watchEnds is the first line of a jail's stop: the jail lets go of its file.
func (h *host) watchEnds(file string, at ms) {
	known := false
	for _, j := range h.sortedJails() {
		if slices.Contains(j.files, file) {
			known = true
			j.stopBegins(at)
		}
	}
	if j := h.jails[h.reload.jail]; !known && h.reload.open && j != nil {
		j.stopBegins(at) // the jail being restarted, whose start is not in the log
	}
}

// beginRun starts a new life of the server. Bans that no line lifted are
// lifted now: by a crash, or by a stop whose lines were not kept.
func (h *host) beginRun(ev *fail2ban.Event, at ms, inferred bool) {
	old := h.run
	if old.epoch == 0 && h.last != 0 {
		h.seenBefore = true
	}
	jails := h.sortedJails()
	for _, j := range jails {
		j.settleBans()
	}
	ended, kind := h.howEnded(&old, inferred)
	for _, j := range jails {
		if inferred && ended == CleanRestart {
			j.claimUnbans(h.last, Shutdown)
		}
		j.settleUnbans(endOfLog)
	}
	h.stale = false
	h.run = run{epoch: old.epoch + 1, started: at, inferred: inferred, pid: ev.PID, ended: ended}
	if !inferred {
		h.run.thread = strings.Clone(ev.Thread)
	}
	h.proof.begin(h.line, old.exited != 0)
	h.reload, h.block = reload{}, nil
	if ev.Version != "" {
		h.version = strings.Clone(ev.Version)
	}
	lift := h.last
	if old.exited != 0 {
		lift = old.exited
	}
	var r *restart
	if h.last != 0 && (old.epoch > 0 || h.seq > 1) {
		stopped := h.last
		if old.stopping != 0 {
			stopped = old.stopping
		}
		r = &restart{scope: "server", kind: kind, stopped: stopped, started: at, seq: h.seq, certain: !inferred, clean: ended == CleanRestart, proof: h.proof.restart()}
	}
	h.lastOther = 0
	for _, j := range jails {
		j.runBegins(old, lift, ended, r)
	}
	if r != nil {
		h.noteRestart(r)
		h.counts[restartKind(kind)]++
	}
}

// howEnded tells how a run ended. At log level NOTICE there is no `Exiting`:
// there the unbans of a stop, or their absence, tell.
func (h *host) howEnded(old *run, inferred bool) (Cause, string) {
	switch {
	case old.exited != 0:
		return CleanRestart, "clean"
	case h.last == 0:
		return CauseUnknown, "unknown"
	case inferred && !h.informed:
		if !h.stale && h.unbansReachEnd() {
			return CleanRestart, "clean"
		}
		for _, j := range h.jails {
			if j.active > 0 {
				return Crash, "crash"
			}
		}
		return CauseUnknown, "unknown"
	case inferred:
		return CauseUnknown, "unknown" // lifecycle lines are visible here, and these are missing
	}
	return Crash, "crash"
}

// unbansReachEnd tells whether unbans up to the last line lifted most of the bans,
// as a stop does. A single expiry before a crash does not.
func (h *host) unbansReachEnd() bool {
	lifted, active := 0, 0
	for _, j := range h.jails {
		active += j.active
		if j.unbanRunEndsAt(h.last) {
			lifted += j.waitingUnbans()
		}
	}
	return lifted > 0 && lifted >= active-lifted
}

func (h *host) advance(to ms) {
	if to <= h.clock {
		return
	}
	h.clock = to
	if h.due <= to {
		h.settle(to)
	}
	if len(h.restarts) > 0 {
		h.sayRestarts(to)
	}
}

// settle goes over the jails in the order of their names, so that findings
// with equal times come out in one order.
func (h *host) settle(to ms) {
	h.due = never
	for _, j := range h.sortedJails() {
		if j.due <= to {
			j.settle(to)
		}
		h.due = min(h.due, j.due)
	}
}

func (h *host) finish(at ms) {
	h.clock = max(h.clock, at)
	for _, j := range h.sortedJails() {
		j.finish(at)
	}
	h.sayRestarts(never)
}

// sortedJails are the host's jails by name. The slice is not the caller's to keep.
func (h *host) sortedJails() []*jail { return h.order }

func (h *host) jail(name string) *jail {
	if name == "" {
		return nil
	}
	j, ok := h.jails[name]
	if !ok {
		name = strings.Clone(name)
		j = newJail(h, name)
		h.jails[name] = j
		i, _ := slices.BinarySearchFunc(h.order, name, func(j *jail, name string) int { return strings.Compare(j.name, name) })
		h.order = slices.Insert(h.order, i, j)
		j.firstLine = h.clock
	}
	j.lastLine = max(j.lastLine, h.clock)
	return j
}

// occur says an event as a row of `report events`.
func (h *host) occur(at ms, event, jail, id string, cause Cause) {
	if h.e.o.Events {
		h.verdict(at, h.seq, Occurrence{Event: event, Jail: strings.Clone(jail), ID: strings.Clone(id), Cause: cause, Confidence: Certain}, lines(h.line))
	}
}

// verdict says an event of an earlier line, with its cause.
func (h *host) verdict(at ms, seq uint64, o Occurrence, proof []Line) {
	if !h.e.o.Events {
		return
	}
	o.Time, o.Host = at.time(), h.name
	h.e.say(Finding{Kind: FindingEvent, Time: o.Time, Host: h.name, Seq: seq, Jail: o.Jail, ID: o.ID, Event: &o, Proof: proof})
}

// firstRun tells a log that begins with the server's very first start.
func (h *host) firstRun() bool { return h.run.epoch == 1 && !h.seenBefore }

func restartKind(kind string) int {
	return slices.Index(restartKinds, kind)
}

var restartKinds = []string{"clean", "crash", "unknown"}
