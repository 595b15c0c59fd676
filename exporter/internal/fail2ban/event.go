// Package fail2ban reads fail2ban's log: one line in, one Event out.
//
// It knows what each line of the versions 0.8 to 1.1.1 says, and nothing of
// what it means: whether a ban is new, why an unban came, what a restore
// continues is decided by package correlate. Lines are written by attackers as
// much as by fail2ban (an id may be any text), so they are parsed from the
// left and everything is bounded.
package fail2ban

import (
	"net/netip"
	"time"
)

// Kind says what a line reports.
type Kind uint8

// The kinds. Their order is the rank that settles the order of lines with the
// same time stamp: lifecycle, then unbans, failures, bans, increases, the rest.
const (
	Other Kind = iota // fail2ban's own line, but no event

	ServerStart     // "Starting Fail2ban vX", and the 0.8/0.9 "Changed logging target to F for Fail2ban vX"
	AlreadyRunning  // "Fail2ban seems to be already running": the socket of a crash
	DatabaseOpened  // "Connected to fail2ban persistent database"
	DatabaseCreated // "New database created": nothing can be restored
	ShutdownBegun   // "Shutdown in progress...": since 0.10.2
	StoppingJails   // "Stopping all jails": a stop, or "reload --restart"
	ServerExited    // "Exiting Fail2ban"
	ReloadAll       // "Reload all jails"
	ReloadJail      // "Reload jail J" (no quotes): the request
	JailReloading   // "Reload jail 'J'" (quotes): this jail's settings follow
	JailReloaded    // "Jail 'J' reloaded"
	ReloadFinished  // "Reload finished."
	JailRestarting  // "Restart jail 'J' (reason ...)": backend changed in a reload
	JailCreated     // "Creating new jail 'J'": its settings follow
	JailStarted     // "Jail 'J' started"
	JailStopped     // "Jail 'J' stopped"
	WatchEnded      // "Removed logfile: F", "Removed journal match for: F": a jail begins to stop. Detail is F
	WatchBegun      // "Added logfile: F", "Added journal match for: F": attributes F to a jail. Detail is F
	SettingBanTime  // "  banTime: N", BanTime; permanent is negative
	SettingFindTime // "  findtime: N", BanTime holds the duration
	SettingMaxRetry // "  maxRetry: N", Count
	SettingIncrement

	Unban
	RepealBan // a stop's unban since 1.1.1

	Found      // FoundAt, where the version says it
	FoundAgain // the observer's second line of one failure: "Found X, bad - T, N # -> R"
	Attempt    // "Attempt X - T": an administrator's failure
	IsBad      // "IP X is bad: N # last T - incr A to B"

	Ban
	RestoreBan

	IncreaseBan   // Count, BanTime, Until
	AlreadyBanned // "X already banned"
	Reban         // "Reban X[, action 'A']"
	Ignore        // "Ignore X by S"; Detail is S
	IgnoreExpired // "Ignore X, expired bantime"
	Flush         // "Flush ticket(s) with A"; Detail is A
	ActionError   // "Failed to execute ban jail 'J' action 'A' info ..."
	NotBanned     // "X is not banned"

	kinds
)

var kindNames = [kinds]string{
	Other: "other", ServerStart: "server_start", AlreadyRunning: "already_running", DatabaseOpened: "database_opened",
	DatabaseCreated: "database_created", ShutdownBegun: "shutdown_begun", StoppingJails: "stopping_jails",
	ServerExited: "server_exited", ReloadAll: "reload_all", ReloadJail: "reload_jail", JailReloading: "jail_reloading",
	JailReloaded: "jail_reloaded", ReloadFinished: "reload_finished", JailRestarting: "jail_restarting",
	JailCreated: "jail_created", JailStarted: "jail_started", JailStopped: "jail_stopped", WatchEnded: "watch_ended",
	WatchBegun: "watch_begun", SettingBanTime: "setting_bantime", SettingFindTime: "setting_findtime",
	SettingMaxRetry: "setting_maxretry", SettingIncrement: "setting_increment", Unban: "unban", RepealBan: "repeal_ban",
	Found: "found", FoundAgain: "found_again", Attempt: "attempt", IsBad: "is_bad", Ban: "ban", RestoreBan: "restore_ban",
	IncreaseBan: "increase_ban", AlreadyBanned: "already_banned", Reban: "reban", Ignore: "ignore",
	IgnoreExpired: "ignore_expired", Flush: "flush", ActionError: "action_error", NotBanned: "not_banned",
}

// String gives the kind in snake case.
func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return "invalid"
}

// HasID tells whether events of this kind speak of one id of one jail.
func (k Kind) HasID() bool {
	return k >= Unban && k <= IgnoreExpired || k == ActionError || k == NotBanned
}

// Permanent is the BanTime of a ban without an end, as fail2ban's "-1" says.
const Permanent time.Duration = -1

// Event is one line's meaning. Its strings alias the line that was parsed: who
// keeps one beyond the next line clones it.
type Event struct {
	// Time is when fail2ban wrote the line: the line's own stamp, else the
	// time the log shipper gave the entry.
	Time time.Time
	Kind Kind
	// Jail is empty where the line names none (settings, server lines, user
	// formats without one).
	Jail string
	// ID is what stands where an address stands: usually an address, but any
	// text is possible (F-ID).
	ID string
	// Addr is set when ID is an address or a subnet.
	Addr netip.Prefix
	// FoundAt is the time of the failure in the watched log, in whole
	// seconds; zero up to 0.9, which do not say it.
	FoundAt time.Time
	// Until is the end of the ban that an IncreaseBan announces.
	Until time.Time
	// BanTime is a duration: of the ban, or of a setting; Permanent for -1.
	BanTime time.Duration
	// Count is maxRetry, or the number of bans that IncreaseBan and IsBad say.
	Count int
	// PID is the server's process id, 0 where the line does not say it. In
	// containers it is the same after each restart.
	PID int
	// Thread is the name or number of the thread, where the form shows it:
	// MainThread unbans are an administrator's.
	Thread string
	// Version is fail2ban's, on ServerStart.
	Version string
	// Detail is the rest by Kind: the ignore's source, the action's name, the
	// watched file.
	Detail string
	// Host and Service are what a user's format names beside the rest.
	Host, Service string
}
