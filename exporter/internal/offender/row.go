package offender

import "time"

// Row is one id of the ranking: what it truly did over all hosts and jails.
// Unknown is the zero time, a score where Scored is false, or an empty string.
type Row struct {
	Rank        int // from 1
	ID          string
	Score       float64 // 0..100
	Scored      bool
	Parts       Parts // what the score is made of
	Bans        int   // true bans, but in jails that weigh nothing
	Restores    int
	Failures    int
	GapFailures int // failures while the host or the jail was down
	Hosts       int // hosts with a true ban
	Jails       int // jails with a true ban, by name
	FirstSeen   time.Time
	LastSeen    time.Time
	LastBan     time.Time // the newest true ban
	BannedNow   bool      // this and where: filled by who knows the running bans
	BannedWhere []Place
	Places      []Place  // whose jails have banned it, recidive jails too
	Escalated   bool     // banned by a jail that watches other jails' bans
	Standing    Standing // by its true bans within the window
	Network     string   // the smallest of the configured ones that holds the address
	Country     string
	ASN         string
}
