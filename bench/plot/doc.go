// Package plot draws what a run has measured: IOPS and latency percentiles by depth,
// throughput of large requests, what remaps cost by their number, and how long heals
// take. Each picture is written as PNG and as SVG.
//
// Points are medians over rounds, bars reach from the lowest to the highest round.
// A device keeps its colour in all pictures; those that do not copy are dashed.
package plot
