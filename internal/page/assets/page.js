// Keeps a page up to date. The server makes all HTML; this puts what has changed into the document.
import * as surface from "./surface.js";

const live = document.getElementById("live");
const figure = document.querySelector("figure.surface");
const host = document.body.dataset.host;
const one = document.body.dataset.live.includes("?device="); // the page of a device

// Attributes and children of an element become those of another one. Elements stay as far as they
// can, so that the focus and a selection do.
function morph(old, fresh) {
	for (const { name } of [...old.attributes]) {
		if (!fresh.hasAttribute(name)) old.removeAttribute(name);
	}
	for (const { name, value } of fresh.attributes) {
		if (old.getAttribute(name) !== value) old.setAttribute(name, value);
	}
	const nodes = [...fresh.childNodes];
	nodes.forEach((node, i) => {
		const there = old.childNodes[i];
		if (!there) {
			old.append(node);
		} else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName) {
			there.replaceWith(node);
		} else if (node.nodeType === Node.ELEMENT_NODE) {
			if (!there.isEqualNode(node)) morph(there, node);
		} else if (there.data !== node.data) {
			there.data = node.data;
		}
	});
	while (old.childNodes.length > nodes.length) old.lastChild.remove();
}

function take(html) {
	const box = document.createElement("template");
	box.innerHTML = html;
	return box.content.firstElementChild;
}

// Devices of the list are put into the order that they are to have.
function order(list, ids) {
	const focus = document.activeElement;
	const wanted = new Set(ids);
	for (const body of [...list.tBodies]) {
		if (!wanted.has(body.id)) body.remove();
	}
	ids.forEach((id, i) => {
		const body = document.getElementById(id);
		if (body && list.tBodies[i] !== body) list.insertBefore(body, list.tBodies[i] ?? null);
	});
	if (focus?.isConnected && focus !== document.activeElement) focus.focus();
}

function show(message) {
	if (message.build !== document.body.dataset.build) {
		location.reload();
		return;
	}
	if (one) {
		if (message.status && !document.getElementById("figures")) {
			location.reload(); // the device is there now: the page has no place for it
			return;
		}
		document.body.classList.toggle("gone", !message.status);
	}
	const list = document.getElementById("devices");
	for (const [id, html] of Object.entries(message.parts)) {
		const fresh = take(html);
		const old = document.getElementById(id);
		if (!fresh) continue;
		if (old) morph(old, fresh);
		else if (list) list.append(fresh);
	}
	if (message.order && list) {
		if (list.hidden && message.order.length > 0) {
			location.reload(); // the first device: the page has no head for it
			return;
		}
		order(list, message.order);
	}
	const title = document.querySelector("[data-title]")?.dataset.title;
	if (title) document.title = `${title} · ${host}`;
	figure?.dispatchEvent(new CustomEvent("ublk-remap:status", { detail: message }));
}

// What the page says about itself: whether it is up to date.
let last = Date.now();
function tell(state, text) {
	if (live.dataset.state !== state) live.dataset.state = state;
	if (live.textContent !== text) live.textContent = text;
	document.body.classList.toggle("stale", state === "stale");
}

// The clock of the host, as all times of the page.
let seen = live.querySelector("time")?.textContent ?? "";

let source, timer;
function connect() {
	clearTimeout(timer);
	source?.close();
	source = new EventSource(document.body.dataset.live);
	source.onmessage = (event) => {
		last = Date.now();
		const message = JSON.parse(event.data);
		show(message);
		seen = message.clock;
		tell("live", "Live");
	};
	source.onerror = () => {
		// The browser connects again by itself, unless it got an answer that is no stream.
		if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, 5000);
	};
}

// No message for some seconds: what is shown may be old. Messages come each second.
setInterval(() => {
	if (Date.now() - last > 5000) tell("stale", `Not connected. This is how it was at ${seen}`);
}, 1000);

// Nobody looks at a page that is hidden. So it asks nothing.
document.addEventListener("visibilitychange", () => {
	if (document.hidden) {
		clearTimeout(timer);
		source?.close();
	} else {
		last = Date.now();
		connect();
	}
});

if (figure) surface.mount(figure);
if (!document.hidden) connect();
