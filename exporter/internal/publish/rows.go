package publish

import (
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// The kinds of rows, as `report` names them.
const (
	KindSummary    = "summary"
	KindEvents     = "events"
	KindRestores   = "restores"
	KindBans       = "bans"
	KindRestarts   = "restarts"
	KindLost       = "lost"
	KindReoffences = "reoffences"
	KindOffenders  = "offenders"
	KindNetworks   = "networks"
	KindCampaigns  = "campaigns"
	KindJails      = "jails"
	KindAdvice     = "advice"
	KindCoverage   = "coverage"

	// KindEvaluation is what `report offenders --evaluate` gives.
	KindEvaluation = "evaluation"
)

// Kinds lists the kinds in the order in which help texts show them.
var Kinds = []string{
	KindSummary, KindEvents, KindRestores, KindBans, KindRestarts, KindLost, KindReoffences, KindOffenders, KindNetworks, KindCampaigns,
	KindJails, KindReturns, KindAdvice, KindCoverage,
}

// Row is one row of a kind, its values in the order of the kind's columns.
// Source is written only where there is more than one.
type Row struct {
	Source string
	Values []Value
	// Detail and Proof explain the verdict; they are written only where the
	// table explains.
	Detail string
	Proof  []correlate.Line
}

// column is a column's name and what stands in it.
type column[T any] struct {
	name  string
	value func(*T) Value
}

func names[T any](cols []column[T]) []string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = c.name
	}
	return out
}

func makeRow[T any](source string, cols []column[T], v *T) Row {
	r := Row{Source: source, Values: make([]Value, len(cols))}
	for i, c := range cols {
		r.Values[i] = c.value(v)
	}
	return r
}

var columns = map[string][]string{
	KindSummary:    names(summaryColumns),
	KindEvents:     names(eventColumns),
	KindRestores:   names(restoreColumns),
	KindBans:       names(banColumns),
	KindRestarts:   names(restartColumns),
	KindLost:       names(lostColumns),
	KindReoffences: names(reoffenceColumns),
	KindOffenders:  names(offenderColumns),
	KindNetworks:   names(networkColumns),
	KindCampaigns:  names(campaignColumns),
	KindJails:      names(jailColumns),
	KindReturns:    names(returnsColumns),
	KindAdvice:     names(adviceColumns),
	KindEvaluation: names(evaluationColumns),
	KindCoverage:   names(coverageColumns),
}

// Columns gives the columns of a kind without `source`; nil for no such kind.
func Columns(kind string) []string { return slices.Clone(columns[kind]) }

var eventColumns = []column[correlate.Occurrence]{
	{"time", func(e *correlate.Occurrence) Value { return timeValue(e.Time) }},
	{"host", func(e *correlate.Occurrence) Value { return textValue(e.Host) }},
	{"jail", func(e *correlate.Occurrence) Value { return textValue(e.Jail) }},
	{"id", func(e *correlate.Occurrence) Value { return textValue(e.ID) }},
	{"event", func(e *correlate.Occurrence) Value { return wordValue(e.Event) }},
	{"cause", func(e *correlate.Occurrence) Value { return wordValue(e.Cause) }},
	{"confidence", func(e *correlate.Occurrence) Value { return wordValue(e.Confidence) }},
}

var restoreColumns = []column[correlate.Restore]{
	{"time", func(r *correlate.Restore) Value { return timeValue(r.Time) }},
	{"host", func(r *correlate.Restore) Value { return textValue(r.Host) }},
	{"jail", func(r *correlate.Restore) Value { return textValue(r.Jail) }},
	{"id", func(r *correlate.Restore) Value { return textValue(r.ID) }},
	{"cause", func(r *correlate.Restore) Value { return wordValue(r.Cause) }},
	{"confidence", func(r *correlate.Restore) Value { return wordValue(r.Confidence) }},
	{"restart_started", func(r *correlate.Restore) Value { return timeValue(r.RestartStarted) }},
	{"ban_started", func(r *correlate.Restore) Value { return timeValue(r.BanStarted) }},
	{"bantime_seconds", func(r *correlate.Restore) Value { return maybe(r.BanTime, banTimeValue) }},
	{"planned_end", func(r *correlate.Restore) Value { return endValue(r.PlannedEnd) }},
	{"remaining_seconds", func(r *correlate.Restore) Value { return maybe(r.Remaining, secondsValue) }},
	{"lifted", func(r *correlate.Restore) Value { return timeValue(r.Lifted) }},
	{"lifted_by", func(r *correlate.Restore) Value { return wordValue(r.LiftedBy) }},
	{"gap_seconds", func(r *correlate.Restore) Value { return maybe(r.Gap, secondsValue) }},
	{"gap_max_seconds", func(r *correlate.Restore) Value { return maybe(r.GapMax, secondsValue) }},
	{"gap_failures", func(r *correlate.Restore) Value { return intValue(r.GapFailures) }},
	{"restore_number", func(r *correlate.Restore) Value { return maybe(r.Number, intValue[int]) }},
	{"failed_again", func(r *correlate.Restore) Value { return maybe(r.FailedAgain, boolValue) }},
}

var banColumns = []column[correlate.Ban]{
	{"host", func(b *correlate.Ban) Value { return textValue(b.Host) }},
	{"jail", func(b *correlate.Ban) Value { return textValue(b.Jail) }},
	{"id", func(b *correlate.Ban) Value { return textValue(b.ID) }},
	{"started", func(b *correlate.Ban) Value { return timeValue(b.Started) }},
	{"ended", func(b *correlate.Ban) Value { return timeValue(b.Ended) }},
	{"ended_by", func(b *correlate.Ban) Value { return wordValue(b.EndedBy) }},
	{"confidence", func(b *correlate.Ban) Value { return wordValue(b.Confidence) }},
	{"origin", func(b *correlate.Ban) Value { return wordValue(b.Origin) }},
	{"bantime_seconds", func(b *correlate.Ban) Value { return maybe(b.BanTime, banTimeValue) }},
	{"bantime_source", func(b *correlate.Ban) Value { return wordValue(b.BanTimeSource) }},
	{"planned_end", func(b *correlate.Ban) Value { return endValue(b.PlannedEnd) }},
	{"banned_seconds", func(b *correlate.Ban) Value { return maybe(sinceStart(b, b.Banned), secondsValue) }},
	{"gap_seconds", func(b *correlate.Ban) Value { return maybe(sinceStart(b, b.Gap), secondsValue) }},
	{"restores", func(b *correlate.Ban) Value { return intValue(b.Restores) }},
	{"failures", func(b *correlate.Ban) Value { return intValue(b.Failures) }},
	{"ban_count", func(b *correlate.Ban) Value { return intValue(b.Count) }},
	{"reoffence_seconds", func(b *correlate.Ban) Value { return maybe(b.Reoffence, secondsValue) }},
	{"next_failure_seconds", func(b *correlate.Ban) Value { return maybe(b.NextFailure, secondsValue) }},
}

// sinceStart is a span that is measured from the ban's start, and so unknown
// where the start is not in the log.
func sinceStart(b *correlate.Ban, d time.Duration) correlate.Maybe[time.Duration] {
	return correlate.Maybe[time.Duration]{V: d, OK: !b.Started.IsZero()}
}

var restartColumns = []column[correlate.Restart]{
	{"host", func(r *correlate.Restart) Value { return textValue(r.Host) }},
	{"scope", func(r *correlate.Restart) Value { return textValue(r.Scope) }},
	{"kind", func(r *correlate.Restart) Value { return wordValue(r.Kind) }},
	{"confidence", func(r *correlate.Restart) Value { return wordValue(r.Confidence) }},
	{"stopped", func(r *correlate.Restart) Value { return timeValue(r.Stopped) }},
	{"started", func(r *correlate.Restart) Value { return timeValue(r.Started) }},
	{"down_seconds", func(r *correlate.Restart) Value { return maybe(r.Down, secondsValue) }},
	{"active_before", func(r *correlate.Restart) Value { return intValue(r.ActiveBefore) }},
	{"restored", func(r *correlate.Restart) Value { return intValue(r.Restored) }},
	{"ended_meanwhile", func(r *correlate.Restart) Value { return intValue(r.EndedMeanwhile) }},
	{"lost", func(r *correlate.Restart) Value { return intValue(r.Lost) }},
	{"gap_failures", func(r *correlate.Restart) Value { return intValue(r.GapFailures) }},
}

var lostColumns = []column[correlate.Lost]{
	{"host", func(l *correlate.Lost) Value { return textValue(l.Host) }},
	{"jail", func(l *correlate.Lost) Value { return textValue(l.Jail) }},
	{"id", func(l *correlate.Lost) Value { return textValue(l.ID) }},
	{"ban_started", func(l *correlate.Lost) Value { return timeValue(l.BanStarted) }},
	{"lifted", func(l *correlate.Lost) Value { return timeValue(l.Lifted) }},
	{"planned_end", func(l *correlate.Lost) Value { return endValue(l.PlannedEnd) }},
	{"restart_started", func(l *correlate.Lost) Value { return timeValue(l.RestartStarted) }},
	{"confidence", func(l *correlate.Lost) Value { return wordValue(l.Confidence) }},
}

var reoffenceColumns = []column[correlate.Reoffence]{
	{"host", func(r *correlate.Reoffence) Value { return textValue(r.Host) }},
	{"jail", func(r *correlate.Reoffence) Value { return textValue(r.Jail) }},
	{"id", func(r *correlate.Reoffence) Value { return textValue(r.ID) }},
	{"previous_ended", func(r *correlate.Reoffence) Value { return timeValue(r.PreviousEnded) }},
	{"previous_ended_by", func(r *correlate.Reoffence) Value { return wordValue(r.PreviousEndedBy) }},
	{"time", func(r *correlate.Reoffence) Value { return timeValue(r.Time) }},
	{"delay_seconds", func(r *correlate.Reoffence) Value { return secondsValue(r.Delay) }},
	{"premature", func(r *correlate.Reoffence) Value { return boolValue(r.Premature) }},
	{"previous_bantime_seconds", func(r *correlate.Reoffence) Value { return maybe(r.PreviousBanTime, banTimeValue) }},
}

var offenderColumns = []column[offender.Row]{
	{"rank", func(o *offender.Row) Value {
		return maybe(correlate.Maybe[int]{V: o.Rank, OK: o.Rank > 0}, intValue[int])
	}},
	{"id", func(o *offender.Row) Value { return textValue(o.ID) }},
	{"score", func(o *offender.Row) Value {
		return maybe(correlate.Maybe[float64]{V: o.Score, OK: o.Scored}, floatValue)
	}},
	{"bans", func(o *offender.Row) Value { return intValue(o.Bans) }},
	{"restores", func(o *offender.Row) Value { return intValue(o.Restores) }},
	{"failures", func(o *offender.Row) Value { return intValue(o.Failures) }},
	{"gap_failures", func(o *offender.Row) Value { return intValue(o.GapFailures) }},
	{"hosts", func(o *offender.Row) Value { return intValue(o.Hosts) }},
	{"jails", func(o *offender.Row) Value { return intValue(o.Jails) }},
	{"first_seen", func(o *offender.Row) Value { return timeValue(o.FirstSeen) }},
	{"last_seen", func(o *offender.Row) Value { return timeValue(o.LastSeen) }},
	{"last_ban", func(o *offender.Row) Value { return timeValue(o.LastBan) }},
	{"banned_now", func(o *offender.Row) Value { return boolValue(o.BannedNow) }},
	{"banned_where", func(o *offender.Row) Value { return textValue(places(o.BannedWhere)) }},
	{"escalated", func(o *offender.Row) Value { return boolValue(o.Escalated) }},
	{"network", func(o *offender.Row) Value { return textValue(o.Network) }},
	{"country", func(o *offender.Row) Value { return textValue(o.Country) }},
	{"asn", func(o *offender.Row) Value { return textValue(o.ASN) }},
}

func places(ps []offender.Place) string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.Host + "/" + p.Jail
		if p.Source != "" {
			out[i] = p.Source + "/" + out[i]
		}
	}
	return strings.Join(out, ";")
}

var networkColumns = []column[offender.Network]{
	{"rank", func(n *offender.Network) Value { return intValue(n.Rank) }},
	{"network", func(n *offender.Network) Value { return textValue(n.Network) }},
	{"score", func(n *offender.Network) Value { return floatValue(n.Score) }},
	{"offenders", func(n *offender.Network) Value { return intValue(n.Offenders) }},
	{"bans", func(n *offender.Network) Value { return intValue(n.Bans) }},
	{"failures", func(n *offender.Network) Value { return intValue(n.Failures) }},
	{"hosts", func(n *offender.Network) Value { return intValue(n.Hosts) }},
	{"share", func(n *offender.Network) Value {
		return maybe(correlate.Maybe[float64]{V: n.Share, OK: n.Share > 0}, shareValue)
	}},
}

var campaignColumns = []column[offender.Campaign]{
	{"rank", func(c *offender.Campaign) Value { return intValue(c.Rank) }},
	{"ids", func(c *offender.Campaign) Value { return intValue(len(c.IDs)) }},
	{"networks", func(c *offender.Campaign) Value { return intValue(c.Networks) }},
	{"hosts", func(c *offender.Campaign) Value { return intValue(c.Hosts) }},
	{"jails", func(c *offender.Campaign) Value { return intValue(c.Jails) }},
	{"started", func(c *offender.Campaign) Value { return timeValue(c.Started) }},
	{"ended", func(c *offender.Campaign) Value { return timeValue(c.Ended) }},
	{"failures", func(c *offender.Campaign) Value { return intValue(c.Failures) }},
	{"bans", func(c *offender.Campaign) Value { return intValue(c.Bans) }},
}

// Ban times that are not known are 0 in an advice.
var adviceColumns = []column[offender.Advice]{
	{"host", func(a *offender.Advice) Value { return textValue(a.Place.Host) }},
	{"jail", func(a *offender.Advice) Value { return textValue(a.Place.Jail) }},
	{"bantime", func(a *offender.Advice) Value { return knownBanTime(a.BanTime) }},
	{"reoffences", func(a *offender.Advice) Value { return intValue(a.Reoffences) }},
	{"within_1h", func(a *offender.Advice) Value { return intValue(a.Within1h) }},
	{"within_1d", func(a *offender.Advice) Value { return intValue(a.Within1d) }},
	{"within_7d", func(a *offender.Advice) Value { return intValue(a.Within7d) }},
	{"suggested_bantime", func(a *offender.Advice) Value { return knownBanTime(a.Suggested) }},
	{"reason", func(a *offender.Advice) Value { return wordValue(a.Reason) }},
}

func knownBanTime(d time.Duration) Value {
	return maybe(correlate.Maybe[time.Duration]{V: d, OK: d != 0}, banTimeValue)
}

// Evaluation is the input of a row of `report offenders --evaluate`: how one
// way of ranking did over some days.
type Evaluation struct {
	Method   string
	Hits, Of int // ids in its top lists that were banned within the day after, and all in them
	Days     int
}

var evaluationColumns = []column[Evaluation]{
	{"method", func(e *Evaluation) Value { return wordValue(e.Method) }},
	{"hits", func(e *Evaluation) Value { return intValue(e.Hits) }},
	{"of", func(e *Evaluation) Value { return intValue(e.Of) }},
	{"share", func(e *Evaluation) Value {
		return maybe(correlate.Maybe[float64]{V: float64(e.Hits) / float64(e.Of), OK: e.Of > 0}, floatValue)
	}},
	{"days", func(e *Evaluation) Value { return intValue(e.Days) }},
}

// Jail is the input of a row of the kind `jails`.
type Jail struct {
	Host   string
	Report correlate.JailReport
	// MedianReoffence is not in the report, which has buckets only: see Spans.
	MedianReoffence correlate.Maybe[time.Duration]
}

var jailColumns = []column[Jail]{
	{"host", func(j *Jail) Value { return textValue(j.Host) }},
	{"jail", func(j *Jail) Value { return textValue(j.Report.Jail) }},
	{"bantime", func(j *Jail) Value { return maybe(j.Report.BanTime, banTimeValue) }},
	{"findtime", func(j *Jail) Value { return maybe(j.Report.FindTime, secondsValue) }},
	{"maxretry", func(j *Jail) Value { return maybe(j.Report.MaxRetry, intValue[int]) }},
	{"log_bans", func(j *Jail) Value { return intValue(j.Report.Counts.LogBans()) }},
	{"bans", func(j *Jail) Value { return intValue(j.Report.Counts.TrueBans()) }},
	{"restored_bans", func(j *Jail) Value { return intValue(j.Report.Counts.RestoredBans()) }},
	{"reread_bans", func(j *Jail) Value { return intValue(j.Report.Counts.Reread) }},
	{"unbans_expired", func(j *Jail) Value { return intValue(unbans(&j.Report.Counts, correlate.Expired)) }},
	{"unbans_manual", func(j *Jail) Value { return intValue(unbans(&j.Report.Counts, correlate.Manual)) }},
	{"unbans_shutdown", func(j *Jail) Value { return intValue(unbans(&j.Report.Counts, correlate.Shutdown)) }},
	{"failures", func(j *Jail) Value { return intValue(j.Report.Counts.Failures) }},
	{"banned_now", func(j *Jail) Value { return intValue(j.Report.BannedNow) }},
	{"lost_bans", func(j *Jail) Value { return intValue(j.Report.Counts.Lost) }},
	{"reoffences", func(j *Jail) Value { return intValue(j.Report.Counts.Reoffences) }},
	{"median_reoffence_seconds", func(j *Jail) Value { return maybe(j.MedianReoffence, secondsValue) }},
}

func unbans(c *correlate.Counts, cause correlate.Cause) uint64 {
	return c.Unbans[slices.Index(correlate.UnbanCauses, cause)]
}

// Coverage is the input of a row of the kind `coverage`: what was read of a host.
type Coverage struct {
	Host                string
	FirstLine, LastLine time.Time
	Lines               uint64
	Events              uint64
	Unparsed            uint64
	LifecycleLines      uint64
	Timezone            string
	TimezoneSource      string
	SettingsSeen        bool
}

var coverageColumns = []column[Coverage]{
	{"host", func(c *Coverage) Value { return textValue(c.Host) }},
	{"first_line", func(c *Coverage) Value { return timeValue(c.FirstLine) }},
	{"last_line", func(c *Coverage) Value { return timeValue(c.LastLine) }},
	{"lines", func(c *Coverage) Value { return intValue(c.Lines) }},
	{"events", func(c *Coverage) Value { return intValue(c.Events) }},
	{"unparsed", func(c *Coverage) Value { return intValue(c.Unparsed) }},
	{"lifecycle_lines", func(c *Coverage) Value { return intValue(c.LifecycleLines) }},
	{"timezone", func(c *Coverage) Value { return textValue(c.Timezone) }},
	{"timezone_source", func(c *Coverage) Value { return wordValue(c.TimezoneSource) }},
	{"settings_seen", func(c *Coverage) Value { return boolValue(c.SettingsSeen) }},
}

// EventRow makes a row of the kind `events`.
func EventRow(source string, e *correlate.Occurrence) Row { return makeRow(source, eventColumns, e) }

// RestoreRow makes a row of the kind `restores`.
func RestoreRow(source string, r *correlate.Restore) Row { return makeRow(source, restoreColumns, r) }

// BanRow makes a row of the kind `bans`.
func BanRow(source string, b *correlate.Ban) Row { return makeRow(source, banColumns, b) }

// RestartRow makes a row of the kind `restarts`.
func RestartRow(source string, r *correlate.Restart) Row { return makeRow(source, restartColumns, r) }

// LostRow makes a row of the kind `lost`.
func LostRow(source string, l *correlate.Lost) Row { return makeRow(source, lostColumns, l) }

// ReoffenceRow makes a row of the kind `reoffences`.
func ReoffenceRow(source string, r *correlate.Reoffence) Row {
	return makeRow(source, reoffenceColumns, r)
}

// OffenderRow makes a row of the kind `offenders`.
func OffenderRow(source string, o *offender.Row) Row {
	r := makeRow(source, offenderColumns, o)
	r.Detail = offenderDetail(o)
	return r
}

// NetworkRow makes a row of the kind `networks`.
func NetworkRow(source string, n *offender.Network) Row {
	r := makeRow(source, networkColumns, n)
	r.Detail = scoreDetail(&n.Parts)
	return r
}

// CampaignRow makes a row of the kind `campaigns`. What explains it are its ids.
func CampaignRow(source string, c *offender.Campaign) Row {
	r := makeRow(source, campaignColumns, c)
	r.Detail = strings.Join(c.IDs, " ")
	return r
}

// AdviceRow makes a row of the kind `advice`.
func AdviceRow(source string, a *offender.Advice) Row { return makeRow(source, adviceColumns, a) }

// EvaluationRow makes a row of `report offenders --evaluate`.
func EvaluationRow(e *Evaluation) Row { return makeRow("", evaluationColumns, e) }

// JailRow makes a row of the kind `jails`.
func JailRow(source string, j *Jail) Row { return makeRow(source, jailColumns, j) }

// CoverageRow makes a row of the kind `coverage`.
func CoverageRow(source string, c *Coverage) Row { return makeRow(source, coverageColumns, c) }

// JailRows makes the rows of the kind `jails` of one source.
func JailRows(s *SourceReport) []Row {
	var rows []Row
	for _, h := range s.Report.Hosts {
		for _, j := range h.Jails {
			rows = append(rows, JailRow(s.Name, &Jail{Host: h.Host, Report: j, MedianReoffence: s.Spans.Reoffence(h.Host, j.Jail)}))
		}
	}
	return rows
}

// FindingRow makes the row of a finding and names the kind whose columns it
// has: gap findings those of restores, premature unbans those of reoffences.
func FindingRow(source string, f *correlate.Finding) (kind string, row Row) {
	kind, row = findingRow(source, f)
	row.Proof = f.Proof
	switch {
	case f.Event != nil:
		row.Detail = f.Event.Detail
	case f.Ban != nil:
		row.Detail = f.Ban.Detail
	}
	return kind, row
}

func findingRow(source string, f *correlate.Finding) (kind string, row Row) {
	switch f.Kind {
	case correlate.FindingEvent:
		return KindEvents, EventRow(source, f.Event)
	case correlate.FindingBan:
		return KindBans, BanRow(source, f.Ban)
	case correlate.FindingRestore, correlate.FindingGap:
		return KindRestores, RestoreRow(source, f.Restore)
	case correlate.FindingLost:
		return KindLost, LostRow(source, f.Lost)
	case correlate.FindingReoffence, correlate.FindingPrematureUnban:
		return KindReoffences, ReoffenceRow(source, f.Reoffence)
	case correlate.FindingRestart:
		return KindRestarts, RestartRow(source, f.Restart)
	}
	return "", Row{}
}

// ReportKind is the kind of report that lists a finding, empty for the kinds
// of finding that say a second time what another one's row says.
func ReportKind(k correlate.FindingKind) string {
	switch k {
	case correlate.FindingEvent:
		return KindEvents
	case correlate.FindingBan:
		return KindBans
	case correlate.FindingRestore:
		return KindRestores
	case correlate.FindingLost:
		return KindLost
	case correlate.FindingReoffence:
		return KindReoffences
	case correlate.FindingRestart:
		return KindRestarts
	}
	return ""
}
