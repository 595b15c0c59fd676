package correlate

import "time"

// Verbs are the log's own verbs in the order of their metric's values.
var Verbs = []string{"found", "ban", "restore_ban", "unban", "repeal_ban", "reban", "increase_ban", "already_banned", "ignore", "attempt", "flush"}

// Counts are a jail's counters over everything settled so far. They never fall.
// Slices are in the order of Verbs, BanOrigins, RestoreCauses and UnbanCauses.
type Counts struct {
	Verbs               [11]uint64 // lines, counted as they come
	Failures            uint64     // each failure once
	Bans                [4]uint64  // true bans by origin
	Restored            [6]uint64  // restored bans by cause
	Reread              uint64
	Unbans              [5]uint64
	Lost                uint64
	GapFailures         uint64
	Reoffences          uint64
	PrematureUnbans     uint64
	FailuresWhileBanned uint64
	ActionErrors        uint64
}

// TrueBans is the sum over all origins.
func (c *Counts) TrueBans() uint64 { return sum(c.Bans[:]) }

// RestoredBans is the sum over all causes.
func (c *Counts) RestoredBans() uint64 { return sum(c.Restored[:]) }

// LogBans counts the lines `Ban` and `Restore Ban`. Once everything is settled
// it equals true bans + restored + re-read.
func (c *Counts) LogBans() uint64 { return c.Verbs[1] + c.Verbs[2] }

func sum(s []uint64) (n uint64) {
	for _, v := range s {
		n += v
	}
	return n
}

// Add adds another jail's counters.
func (c *Counts) Add(o *Counts) {
	addTo(c.Verbs[:], o.Verbs[:])
	addTo(c.Bans[:], o.Bans[:])
	addTo(c.Restored[:], o.Restored[:])
	addTo(c.Unbans[:], o.Unbans[:])
	c.Failures += o.Failures
	c.Reread += o.Reread
	c.Lost += o.Lost
	c.GapFailures += o.GapFailures
	c.Reoffences += o.Reoffences
	c.PrematureUnbans += o.PrematureUnbans
	c.FailuresWhileBanned += o.FailuresWhileBanned
	c.ActionErrors += o.ActionErrors
}

func addTo(to, from []uint64) {
	for i, v := range from {
		to[i] += v
	}
}

// Report is the state at a time: what gauges, rankings and tables show.
type Report struct {
	At    time.Time
	Hosts []HostReport // by name
}

// HostReport is one host's state.
type HostReport struct {
	Host           string
	FirstLine      time.Time
	LastLine       time.Time
	Running        Maybe[bool]
	Started        time.Time // the present run's start, zero where not seen
	Version        string
	Restarts       map[string]uint64 // by kind: clean crash unknown; all three are always there
	LifecycleLines uint64
	SettingsSeen   bool
	Events         uint64
	Jails          []JailReport // by name
}

// JailReport is one jail's state on one host.
type JailReport struct {
	Jail        string
	FirstLine   time.Time   // that named the jail
	LastLine    time.Time   // that did
	Running     Maybe[bool] // OK where the log shows its start or stop
	BanTime     Maybe[time.Duration]
	FindTime    Maybe[time.Duration]
	MaxRetry    Maybe[int]
	Counts      Counts
	BannedNow   int
	Unprotected int // lifted by a stop, not yet restored, ban time not over
	Failing     int // failed within the find time without a ban; only where asked for
	GapSeconds  Histogram
	Reoffence   Histogram
	OpenBans    []Ban    // only where asked for, by id
	OpenProofs  [][]Line // of OpenBans, where verdicts are explained
}

// Place is a host and a jail in which an id is banned.
type Place struct{ Host, Jail string }
