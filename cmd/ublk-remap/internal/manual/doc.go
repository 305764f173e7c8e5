// Package manual shows what the command says of itself: the help of a verb on a terminal, and the
// manual pages. Both are made from the same texts, those of its cobra.Command, so they never say
// different things.
//
// A verb's Long is text as it is to be read in 80 columns. [Page] takes it apart:
//
//	lines at the left margin        are a paragraph, up to an empty line
//	  term  what it means           indented by two: an entry of a list; the term ends where two
//	                                blanks are, and lines that are indented more belong to it
//	    ublk-remap start old        indented by four: an example, line by line
//
// Example has only lines of the last kind. The value of a flag is called by what stands in
// backquotes in its usage, or else by its type.
package manual
