package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
	"fail2ban-loki-exporter/exporter/internal/offender"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
)

// reportKinds are the kinds that `report` knows, the default first.
var reportKinds = []string{
	publish.KindSummary, publish.KindEvents, publish.KindRestores, publish.KindBans, publish.KindRestarts, publish.KindLost,
	publish.KindReoffences, publish.KindOffenders, publish.KindNetworks, publish.KindCampaigns, publish.KindJails, publish.KindReturns, publish.KindAdvice,
	publish.KindCoverage,
}

// reportCommand is the one-shot report.
type reportCommand struct {
	common         *common
	args           []string
	inputs         []string
	from, to       string
	timezone       string
	format         string
	output         string
	force          bool
	top            int
	noColor        bool
	failOnUnparsed bool
	explain        bool
	redact         bool
	evaluate       bool
	lineFormat     string
}

func addReport(app *kingpin.Application, c *common, commands map[string]command) {
	r := &reportCommand{common: c}
	cmd := app.Command("report", "One report, from log files or, where none is named, from Loki. Kinds: "+strings.Join(reportKinds, ", ")+".")
	cmd.Arg("kind-and-files", "The kind (default summary) and log files of one host; - is standard input.").StringsVar(&r.args)
	cmd.Flag("input", "A log file of a host, as [HOST=]FILE; may be repeated, patterns are expanded.").StringsVar(&r.inputs)
	cmd.Flag("line-format", "Form of the lines in files: the name of one of the configuration's formats, or a pattern like '<time> - <action> - <ip> - <jail>'.").StringVar(&r.lineFormat)
	cmd.Flag("from", "Beginning, as RFC 3339 or now-7d.").StringVar(&r.from)
	cmd.Flag("to", "End, as RFC 3339 or now.").StringVar(&r.to)
	cmd.Flag("timezone", "Zone of the stamps in files.").Default("Local").StringVar(&r.timezone)
	cmd.Flag("format", "table, csv or json (one object a line).").Default("table").EnumVar(&r.format, "table", "csv", "json")
	cmd.Flag("output", "Write to this file instead of standard output.").StringVar(&r.output)
	cmd.Flag("force", "Overwrite the output file.").BoolVar(&r.force)
	cmd.Flag("top", "How many offenders, networks or campaigns.").Default("0").IntVar(&r.top)
	cmd.Flag("no-color", "No colours (there are none yet; scripts may say so).").BoolVar(&r.noColor)
	cmd.Flag("fail-on-unparsed", "Fail when a line of fail2ban's cannot be read.").BoolVar(&r.failOnUnparsed)
	cmd.Flag("explain", "Add to each row the log's lines that prove its verdict.").BoolVar(&r.explain)
	cmd.Flag("redact", "Hide whom the rows are about: as privacy.report says, else addresses are cut to /24 and /64.").BoolVar(&r.redact)
	cmd.Flag("evaluate", "With offenders: how many of each midnight's first were banned in the day after, beside other ways of ranking.").BoolVar(&r.evaluate)
	commands[cmd.FullCommand()] = r.run
}

func (r *reportCommand) run(ctx context.Context, log *slog.Logger, std stdio) error {
	kind, files, err := kindAndFiles(r.args)
	if err != nil {
		return err
	}
	now := time.Now()
	from, err := parseTime(r.from, now)
	if err != nil {
		return usageError{fmt.Errorf("--from: %w", err)}
	}
	to, err := parseTime(r.to, now)
	if err != nil {
		return usageError{fmt.Errorf("--to: %w", err)}
	}
	if r.evaluate {
		if kind != publish.KindOffenders {
			return usageError{errors.New("--evaluate is for `report offenders`")}
		}
		kind = publish.KindEvaluation
	}
	job := &reportJob{kind: kind, from: from, to: to, now: now, log: log, bar: terminal(std.err), top: r.top, explain: r.explain}
	if r.redact {
		job.redact = publish.NewTruncator(nil)
	}
	inputs := slices.Concat(files, r.inputs)
	if len(inputs) == 0 && r.lineFormat != "" {
		return usageError{errors.New("--line-format is for files; a source of Loki has its `format` in the configuration")}
	}
	if len(inputs) > 0 {
		err = r.readFiles(ctx, job, inputs, std.in)
	} else {
		err = r.readLoki(ctx, job)
	}
	if err != nil {
		return err
	}
	if job.unparsed > 0 {
		log.Warn("lines that begin like fail2ban's could not be read", "lines", job.unparsed, "first", job.firstUnparsed)
		if r.failOnUnparsed {
			return fmt.Errorf("%d lines of fail2ban's could not be read, the first: %s", job.unparsed, job.firstUnparsed)
		}
	}
	return r.write(job, std.out)
}

// kindAndFiles tells the kind from the files that follow it. A word that is
// neither a kind nor a file is a kind misspelt.
func kindAndFiles(args []string) (kind string, files []string, err error) {
	if len(args) == 0 {
		return publish.KindSummary, nil, nil
	}
	if slices.Contains(reportKinds, args[0]) {
		return args[0], args[1:], nil
	}
	if _, err := os.Stat(args[0]); err != nil && args[0] != "-" && !strings.ContainsAny(args[0], "./*?[") {
		return "", nil, usageError{fmt.Errorf("%q is neither a kind of report (%s) nor a file", args[0], strings.Join(reportKinds, ", "))}
	}
	return publish.KindSummary, args, nil
}

func (r *reportCommand) readFiles(ctx context.Context, job *reportJob, inputs []string, stdin io.Reader) error {
	zone, err := time.LoadLocation(r.timezone)
	if err != nil {
		return usageError{fmt.Errorf("--timezone: %w", err)}
	}
	var parsed []pipeline.Input
	for _, in := range inputs {
		parsed = append(parsed, pipeline.ParseInput(in))
	}
	if err := r.rankFiles(job); err != nil {
		return err
	}
	format, err := r.fileFormat()
	if err != nil {
		return err
	}
	parser := fail2ban.Options{Location: zone, Newest: job.now, Format: format}
	files, err := pipeline.OpenFiles(parsed, stdin, parser)
	if err != nil {
		return err
	}
	for _, n := range files.Notices {
		job.log.Warn(n)
	}
	if r.explain && !explained(job.kind) {
		job.log.Warn("--explain does nothing here: it is for events, restores, bans, restarts, lost, reoffences, offenders, networks and campaigns", "kind", job.kind)
	}
	part := job.part("files", correlate.Options{}, parser, func(string) *time.Location { return zone })
	if err := part.feed.Read(ctx, files, job.from, job.to); err != nil {
		return err
	}
	if part.feed.Engine().Newest().IsZero() && job.from.IsZero() && job.to.IsZero() {
		return fmt.Errorf("%s: %w; is it fail2ban's log, and not one that fail2ban watches?", strings.Join(inputs, " "), pipeline.ErrNothingRead)
	}
	job.finish()
	return nil
}

// rankFiles says how the offenders of files are ranked: as a configuration that
// was named says, else by the defaults.
func (r *reportCommand) rankFiles(job *reportJob) error {
	if !r.common.configSet {
		job.rankBy(offender.Options{}, offender.AdviceOptions{})
		return nil
	}
	cfg, err := loadConfig(r.common)
	if err != nil {
		return err
	}
	if err := r.hide(job, cfg); err != nil {
		return err
	}
	job.rankBy(withOrigins(offenderOptions(cfg), openOrigins(&cfg.Enrich, job.log)), adviceOptions(cfg))
	job.board.Ignore = within(cfg.Offenders.Ignore)
	return nil
}

// hide has the report hide ids as the configuration or --redact says.
func (r *reportCommand) hide(job *reportJob, cfg *config.Config) error {
	redact, err := newRedactors(&cfg.Privacy)
	if redact.report != nil {
		job.redact = redact.report
	}
	return err
}

func (r *reportCommand) readLoki(ctx context.Context, job *reportJob) error {
	cfg, err := loadConfig(r.common)
	if errors.Is(err, os.ErrNotExist) && r.common.configFile == defaultConfigFile {
		return usageError{errors.New("nothing to read: name fail2ban's log file, or the configuration that names your Loki (--config.file)")}
	}
	if err != nil {
		return err
	}
	if err := r.hide(job, cfg); err != nil {
		return err
	}
	job.rankBy(withOrigins(offenderOptions(cfg), openOrigins(&cfg.Enrich, job.log)), adviceOptions(cfg))
	job.board.Ignore = within(cfg.Offenders.Ignore)
	for i := range cfg.Sources {
		s := &cfg.Sources[i]
		s.Backoff = impatient(s.Backoff)
		zone, err := zoneOf(s)
		if err != nil {
			return err
		}
		parser, err := parserOptions(cfg, s)
		if err != nil {
			return err
		}
		from, to := job.from, job.to
		if to.IsZero() {
			to = job.now
		}
		if from.IsZero() {
			from = to.Add(-time.Duration(s.Lookback))
		}
		past := &progress{name: s.Name, from: from, to: to, log: job.log, bar: job.bar}
		client, err := newLokiClient(s, job.log, nil, past)
		if err != nil {
			return err
		}
		part := job.part(s.Name, correlateOptions(cfg), parser, zone)
		err = part.feed.Read(ctx, newLokiSource(s, client), from, to)
		past.end()
		if err != nil {
			return fmt.Errorf("source %s: %w", s.Name, err)
		}
		if part.lines == 0 {
			job.log.Warn("no stream matches the query in this time", "source_name", s.Name, "query", s.Query, "from", from.Format(time.RFC3339), "to", to.Format(time.RFC3339))
		}
	}
	job.finish()
	return nil
}

// write puts the report where it is wanted. A file is written whole or not at all.
func (r *reportCommand) write(job *reportJob, out io.Writer) error {
	if r.output == "" {
		return job.write(out, r.format)
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if r.force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	var b bytes.Buffer
	if err := job.write(&b, r.format); err != nil {
		return err
	}
	f, err := os.OpenFile(r.output, mode, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists; --force overwrites it", r.output)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

// reportJob gathers what a report shows.
type reportJob struct {
	kind     string
	from, to time.Time
	now      time.Time
	log      *slog.Logger
	bar      io.Writer // a terminal to show progress on, or nil
	board    *pipeline.Board
	ranking  offender.Options
	advice   offender.AdviceOptions
	facts    []fact // where the ranking is evaluated
	top      int
	explain  bool
	redact   *publish.Redactor

	parts         []*reportPart
	unparsed      int
	firstUnparsed string
}

// rankBy makes the ranking.
func (j *reportJob) rankBy(o offender.Options, a offender.AdviceOptions) {
	j.board, j.ranking, j.advice = pipeline.NewBoard(o), o, a
	if j.kind == publish.KindEvaluation {
		j.board.Watch = j.watch
	}
}

// watch notes what an evaluation of the ranking is made of.
func (j *reportJob) watch(ob correlate.Observation, p offender.Place) {
	if ob.Kind == correlate.SawBan || ob.Kind == correlate.SawRestore {
		j.facts = append(j.facts, fact{
			ban:     offender.BanFact{Place: p, ID: ob.ID, At: ob.Time, Delay: ob.Delay.V, HasDelay: ob.Delay.OK, Manual: ob.Manual},
			restore: ob.Kind == correlate.SawRestore,
		})
	}
}

// reportPart is one source's share.
type reportPart struct {
	name     string
	kind     string // of the report
	feed     *pipeline.Feed
	lines    int
	findings []correlate.Finding
	report   correlate.Report
	spans    publish.Spans
	zone     func(string) *time.Location
}

func (j *reportJob) part(name string, o correlate.Options, parser fail2ban.Options, zone func(string) *time.Location) *reportPart {
	o.Events, o.Rows, o.Explain = j.kind == publish.KindEvents, j.kind == publish.KindBans, j.explain && explained(j.kind)
	p := &reportPart{name: name, zone: zone, kind: j.kind}
	var board *pipeline.Board
	if restsOnRanking(j.kind) {
		board = j.board.For(name)
	}
	p.feed = pipeline.NewFeed(pipeline.FeedOptions{
		Correlate: o, Parser: parser, Zone: zone, Newest: j.now, From: j.from, To: j.to, Board: board,
		Count: func(string) {
			if p.lines++; p.lines%drainEvery == 0 {
				p.drain()
			}
		},
		Unparsed: func(l pipeline.Line) {
			if j.unparsed++; j.unparsed == 1 {
				j.firstUnparsed = sample(l.Text, 200, j.redact)
			}
		},
	})
	j.parts = append(j.parts, p)
	return p
}

// drainEvery is after how many lines findings are taken from the engine: a month
// of a fleet has millions, most of them of other kinds than the report's.
const drainEvery = 10_000

// drain takes what was found and keeps what the report shows of it.
func (p *reportPart) drain() {
	for _, f := range p.feed.Engine().Findings() {
		p.spans.Add(&f)
		if publish.ReportKind(f.Kind) == p.kind {
			p.findings = append(p.findings, f)
		}
	}
}

// finish settles everything as of --to, else as of the newest line read.
func (j *reportJob) finish() {
	end := j.to
	if end.IsZero() {
		for _, p := range j.parts {
			if n := p.feed.Engine().Newest(); n.After(end) {
				end = n
			}
		}
	}
	for _, p := range j.parts {
		e := p.feed.Engine()
		e.Finish(end)
		p.drain()
		slices.SortStableFunc(p.findings, correlate.Compare)
		p.report = e.Report(j.kind == publish.KindBans)
	}
	j.now = end
}

func (j *reportJob) sources() (out []publish.SourceReport) {
	for _, p := range j.parts {
		out = append(out, publish.SourceReport{Name: p.name, Report: p.report, Spans: &p.spans})
	}
	return out
}

// topOf is how many rows of a ranking are wanted.
func (j *reportJob) topOf(usual int) int {
	if j.top > 0 {
		return j.top
	}
	return usual
}

func (j *reportJob) offenders(top int) []offender.Row {
	rows := j.board.Rank(j.now, j.topOf(top)).Rows
	wanted := idsOf(rows)
	for _, p := range j.parts {
		sayBanned(rows, sourceLabel(p.name, len(j.parts)), p.feed.Engine().Banned(wanted))
	}
	return rows
}

// defaultTop is how many offenders a report lists.
const defaultTop = 100

func (j *reportJob) write(w io.Writer, format string) error {
	if j.kind == publish.KindSummary && format == "table" {
		return publish.WriteSummary(w, publish.Summary{At: j.now, Sources: j.sources(), Offenders: j.redact.Offenders(j.offenders(10))})
	}
	t := publish.Table{Kind: j.kind, NameSource: len(j.parts) > 1, Explain: j.explain && explained(j.kind), Redact: j.redact, Rows: slices.Values(j.rows())}
	switch format {
	case "csv":
		return publish.WriteCSV(w, t)
	case "json":
		return publish.WriteJSON(w, t)
	}
	return publish.WriteTable(w, t)
}

func (j *reportJob) rows() (rows []publish.Row) {
	switch j.kind {
	case publish.KindSummary:
		return publish.SummaryRows(publish.Summary{At: j.now, Sources: j.sources()})
	case publish.KindOffenders:
		for _, o := range j.offenders(defaultTop) {
			rows = append(rows, publish.OffenderRow("", &o))
		}
		return rows
	case publish.KindNetworks:
		for _, n := range j.board.Freeze().Networks(j.now, j.topOf(defaultTop)) {
			rows = append(rows, publish.NetworkRow("", &n))
		}
		return rows
	case publish.KindCampaigns:
		for _, c := range j.board.Freeze().Campaigns(j.now, j.topOf(defaultTop)) {
			rows = append(rows, publish.CampaignRow("", &c))
		}
		return rows
	case publish.KindReturns:
		for _, r := range everywhere(returnsOf(j.board.Freeze(), j.sources())) {
			rows = append(rows, publish.ReturnsRow(r.Place.Source, &r))
		}
		return rows
	case publish.KindAdvice:
		sources := j.sources()
		for _, a := range adviceOf(returnsOf(j.board.Freeze(), sources), sources, j.advice) {
			rows = append(rows, publish.AdviceRow(a.Place.Source, &a))
		}
		return rows
	case publish.KindEvaluation:
		return j.evaluation()
	case publish.KindJails:
		for _, s := range j.sources() {
			rows = append(rows, publish.JailRows(&s)...)
		}
		return rows
	case publish.KindCoverage:
		return j.coverage()
	}
	for _, p := range j.parts {
		for i := range p.findings {
			_, row := publish.FindingRow(p.name, &p.findings[i])
			rows = append(rows, row)
		}
		if j.kind == publish.KindBans {
			rows = append(rows, openBans(p)...)
		}
	}
	return rows
}

// explained are the kinds whose rows are verdicts that lines can prove, or are
// made of parts.
func explained(kind string) bool {
	switch kind {
	case publish.KindEvents, publish.KindRestores, publish.KindBans, publish.KindRestarts, publish.KindLost, publish.KindReoffences, publish.KindOffenders, publish.KindNetworks, publish.KindCampaigns:
		return true
	}
	return false
}

// restsOnRanking tells the kinds that the ranking is needed for. Keeping it takes a fifth
// of a report's time, and half of its memory.
func restsOnRanking(kind string) bool {
	switch kind {
	case publish.KindSummary, publish.KindOffenders, publish.KindNetworks, publish.KindCampaigns, publish.KindReturns, publish.KindAdvice, publish.KindEvaluation:
		return true
	}
	return false
}

// evaluation judges the ranking by the log itself.
func (j *reportJob) evaluation() (rows []publish.Row) {
	var first, newest time.Time
	for _, p := range j.parts {
		for _, h := range p.report.Hosts {
			if first.IsZero() || h.FirstLine.Before(first) {
				first = h.FirstLine
			}
			if h.LastLine.After(newest) {
				newest = h.LastLine
			}
		}
	}
	found := evaluate(j.facts, first, newest, j.top, j.ranking)
	for i := range found {
		rows = append(rows, publish.EvaluationRow(&found[i]))
	}
	if len(rows) == 0 {
		j.log.Warn("too little data: no midnight (UTC) has a full day of log before and after it", "first_line", first, "last_line", newest)
	}
	return rows
}

func openBans(p *reportPart) (rows []publish.Row) {
	for _, h := range p.report.Hosts {
		for _, jail := range h.Jails {
			for i := range jail.OpenBans {
				row := publish.BanRow(p.name, &jail.OpenBans[i])
				if i < len(jail.OpenProofs) {
					row.Proof = jail.OpenProofs[i]
				}
				rows = append(rows, row)
			}
		}
	}
	return rows
}

func (j *reportJob) coverage() (rows []publish.Row) {
	for _, p := range j.parts {
		for _, h := range p.report.Hosts {
			c := p.feed.Coverage(h.Host)
			row := publish.Coverage{
				Host: h.Host, FirstLine: h.FirstLine, LastLine: h.LastLine, Lines: c.Lines, Events: c.Events, Unparsed: c.Unparsed,
				LifecycleLines: h.LifecycleLines, SettingsSeen: h.SettingsSeen, Timezone: "auto", TimezoneSource: "inferred",
			}
			if z := p.zone(h.Host); z != nil {
				row.Timezone, row.TimezoneSource = z.String(), "configured"
			}
			rows = append(rows, publish.CoverageRow(p.name, &row))
		}
	}
	return rows
}

// parseTime reads RFC 3339, "now" or "now-7d"; empty gives the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if rest, ok := strings.CutPrefix(s, "now"); ok {
		if rest == "" {
			return now, nil
		}
		if ago, ok := strings.CutPrefix(rest, "-"); ok {
			if d, err := model.ParseDuration(ago); err == nil {
				return now.Add(-time.Duration(d)), nil
			}
		}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time: give RFC 3339 (2026-11-22T20:00:00Z), now, or now-7d", s)
	}
	return t, nil
}
