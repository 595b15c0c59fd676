package offender

import "time"

// Row is one id of the ranking: what it truly did over all hosts and jails.
// Unknown is the zero time, a score where Scored is false, or an empty string.
type Row struct {
	Rank        int // from 1
	ID          string
	Score       float64
	Scored      bool
	Bans        int // true bans
	Restores    int
	Failures    int
	GapFailures int // failures while the host or the jail was down
	Hosts       int // hosts with a true ban
	Jails       int // jails with a true ban, by name
	FirstSeen   time.Time
	LastSeen    time.Time
	LastBan     time.Time // the newest true ban
	BannedNow   bool
	BannedWhere []Place
	Escalated   bool // banned by a jail that watches other jails' bans
	Network     string
	Country     string
	ASN         string
}
