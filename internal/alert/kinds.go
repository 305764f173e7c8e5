package alert

import (
	"strconv"
	"strings"
	"time"
)

// Severity says how soon somebody has to look.
type Severity string

const (
	Critical Severity = "critical" // now
	Warning  Severity = "warning"  // within days
)

// Kind is an alert.
type Kind struct {
	// Name is what commands, hooks and webhooks call it. It never changes.
	Name string
	// Rule is the alert of contrib/prometheus/ublk-remap.rules.yml.
	Rule     string
	Severity Severity
	// MessageID is the journal's MESSAGE_ID. It never changes.
	MessageID string
	// Summary is a sentence, with {set} and {value}.
	Summary string
	// Over is the sentence about its end; empty: its end is not told.
	Over string
	// Section is the heading in docs/OPERATIONS.md.
	Section string
	// For is how long it must be there before it is told.
	For time.Duration
	// Durable: it follows from what is on the disk. It stays while the device is stopped.
	Durable bool
	// blind: it can be judged without an answer of the server.
	blind bool
	// judge says whether it is there.
	judge func(*Device, *setMemory, time.Time) finding
}

// finding is what a Kind's judge has found.
type finding struct {
	present bool
	// level says how bad it is: a rise is told again. value is what the sentence says.
	level uint64
	value string
	// reason and action are what the server says.
	reason, action string
}

// at is a finding whose level is what the sentence says.
func at(present bool, level uint64) finding {
	return finding{present: present, level: level, value: strconv.FormatUint(level, 10)}
}

// MonitorFails is the name of the kind that is about the host, not about a device.
const MonitorFails = "monitor-fails"

// Kinds are all alerts, in the order in which they are told. A new one is one more row here, one
// more rule for Prometheus and one more section in docs/OPERATIONS.md.
var Kinds = []*Kind{
	{
		Name: "server-dead", Rule: "UblkRemapServerDead", Severity: Critical,
		MessageID: "882af8649f164a66be6b1ef3955cf6ce", For: time.Minute,
		Summary: "The server of {set} is dead; its I/O waits.",
		Over:    "{set} has a server again.",
		Section: "A server is dead", judge: serverDead, blind: true,
	},
	{
		Name: "no-answer", Rule: "UblkRemapNoAnswer", Severity: Critical,
		MessageID: "30e1a78c49794ed4aaa5b2cafc4c11a8", For: 5 * time.Minute,
		Summary: "The server of {set} does not answer.",
		Over:    "The server of {set} answers again.",
		Section: "A server does not answer", judge: noAnswer, blind: true,
	},
	{
		Name: "disk-missing", Rule: "UblkRemapDiskMissing", Severity: Critical,
		MessageID: "2754cbc17c8c4765ac18327f4184e104",
		Summary:   "A disk of {set} is not there any more.",
		Over:      "All disks of {set} are there again.",
		Section:   "A disk is gone", judge: diskMissing, blind: true,
	},
	{
		Name: "tripped", Rule: "UblkRemapTripped", Severity: Critical,
		MessageID: "3323603c0c5b4ef3ac094f599a3386c5",
		Summary:   "Remapping of {set} is stopped; errors reach its users.",
		Over:      "Remapping of {set} goes on.",
		Section:   "Remapping is stopped", judge: tripped,
	},
	{
		Name: "disk-waits", Rule: "UblkRemapDiskWaits", Severity: Critical,
		MessageID: "d0ca372aaa1c499e863f17ad15114c24",
		Summary:   "No I/O of {set} has come back for a minute.",
		Over:      "I/O of {set} comes back again.",
		Section:   "The disk does not answer", judge: diskWaits,
	},
	{
		Name: "flush-failed", Rule: "UblkRemapFlushFailed", Severity: Critical,
		MessageID: "49f857c1f483420ea864b031a6fb53e3",
		Summary:   "Flushes of the disk of {set} failed: {value}.",
		Section:   "A flush failed", judge: flushFailed,
	},
	{
		Name: "spare-nearly-used-up", Rule: "UblkRemapSpareNearlyUsedUp", Severity: Critical,
		MessageID: "bc3c1c47b34249c88a56598d1f83d3d4", Durable: true,
		Summary: "{set} has {value} spare units left, 5 % or less.",
		Over:    "{set} has enough spare units again.",
		Section: "The spare region is nearly used up", judge: spareNearlyUsedUp,
	},
	{
		Name: "disk-to-replace", Rule: "UblkRemapDiskToReplace", Severity: Critical,
		MessageID: "93fdb995f28543359622cb5adf92dc6e", Durable: true,
		Summary: "The disk of {set} is to be replaced now, while it still reads.",
		Over:    "Nothing says any more that the disk of {set} is to be replaced now.",
		Section: "A disk is to be replaced", judge: diskToReplace,
	},
	{
		Name: "spare-goes-down", Rule: "UblkRemapSpareGoesDown", Severity: Warning,
		MessageID: "34b7a17e0fef4fd791328f7699b8a337", For: time.Hour, Durable: true,
		Summary: "The spare region of {set} lasts less than a week at the rate of the last two " +
			"days.",
		Section: "The spare region goes down fast", judge: spareGoesDown,
	},
	{
		Name: "blocks-lost", Rule: "UblkRemapBlocksLost", Severity: Warning,
		MessageID: "823d3d8772db4a59b830943660cfce15", Durable: true,
		Summary: "Blocks of {set} have lost their data: {value}.",
		Over:    "No block of {set} is lost any more.",
		Section: "Blocks are lost", judge: blocksLost,
	},
	{
		Name: "blocks-pending", Rule: "UblkRemapBlocksPending", Severity: Warning,
		MessageID: "25ffce59f8eb4e2fa45437fdd44e540c", Durable: true,
		Summary: "Blocks of {set} do not read: {value}.",
		Over:    "No block of {set} is pending any more.",
		Section: "Blocks are pending", judge: blocksPending,
	},
	{
		Name: "new-bad-blocks", Rule: "UblkRemapNewBadBlocks", Severity: Warning,
		MessageID: "95092a21bba4422099f8f999878bda33", Durable: true,
		Summary: "Units of {set} were remapped within a day: {value}.",
		Section: "New bad blocks", judge: newBadBlocks,
	},
	{
		Name: "metadata-degraded", Rule: "UblkRemapMetadataDegraded", Severity: Warning,
		MessageID: "84cc02421c3f482dbf284903136238af", For: 30 * time.Minute,
		Summary: "The metadata of {set} has not all its copies.",
		Over:    "The metadata of {set} has all its copies again.",
		Section: "The metadata lacks copies", judge: metadataDegraded,
	},
	{
		Name: "transport-errors", Rule: "UblkRemapTransportErrors", Severity: Warning,
		MessageID: "23194baffe07412a80ea390c15d7ecba",
		Summary: "The way to the disk of {set} has errors: {value}. Cable, power or controller " +
			"may be the cause.",
		Section: "Errors of the way to the disk", judge: transportErrors,
	},
	{
		Name: "slow", Rule: "UblkRemapSlow", Severity: Warning,
		MessageID: "3a4a53b6285142aab09a79c6158276b1", For: 15 * time.Minute,
		Summary: "One request in a hundred of {set} takes longer than a second.",
		Over:    "Requests of {set} take no longer than a second.",
		Section: "Requests take long", judge: slow,
	},
	{
		Name: "server-replaced", Rule: "UblkRemapRecovered", Severity: Warning,
		MessageID: "329b207a9d0143e2ac5463f788c451eb",
		Summary:   "The server of {set} was replaced {value} times within an hour.",
		Section:   "A server dies again and again", judge: serverReplaced,
	},
	{
		Name: "table-nearly-full", Rule: "UblkRemapTableNearlyFull", Severity: Warning,
		MessageID: "938d7a6102a145e384e302ba521f38ff", For: time.Hour, Durable: true,
		Summary: "The remap table of {set} is nearly full.",
		Over:    "The remap table of {set} has room again.",
		Section: "The remap table is nearly full", judge: tableNearlyFull,
	},
	{
		Name: MonitorFails, Rule: "UblkRemapMonitorFails", Severity: Warning,
		MessageID: "182ea672a62f4a7fba730a45ff25d3c3", For: 10 * time.Minute,
		Summary: "The devices of {set} cannot be listed.",
		Over:    "The devices of {set} can be listed again.",
		Section: "The monitor fails",
	},
}

// TestKind is what a test alert is. It is about no device.
var TestKind = &Kind{
	Name: "test", Severity: Warning, MessageID: "becf24a3ab8b45faa38fd43495466004",
	Summary: "This is a test of the alerts of {set}. Nothing has happened.",
	Section: "Alerts are tested",
}

// KindOf returns the kind of that name, or nil.
func KindOf(name string) *Kind {
	for _, k := range Kinds {
		if k.Name == name {
			return k
		}
	}
	if name == TestKind.Name {
		return TestKind
	}
	return nil
}

// say fills in a sentence.
func say(sentence, set, value string) string {
	return strings.NewReplacer("{set}", set, "{value}", value).Replace(sentence)
}
