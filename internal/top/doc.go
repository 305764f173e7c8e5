// Package top is the live view of all devices of a host in a terminal: a list, and for one device
// its state in words, what to do next, rates, a map of its surface and what happens to it.
//
// It only reads. A Model is a state machine of Bubble Tea: it is given keys, the size of the window
// and answers, and says what to ask next and how the screen looks. It keeps no clock and asks
// nobody by itself, so tests drive it without a terminal. Each question is asked on a goroutine of
// its own, by a Source, and at most one of a kind is open for each device: a server that dies or
// hangs never holds up the screen.
//
// What is a colour is a letter as well: the map can be read without colours, and by those who see
// colours differently (the palette is that of Okabe and Ito).
package top
