/**
 * ReconnectingWebSocket, the library of Django Real-Time Login Status Updates, used as its README shows. Runs in a
 * page, after the library. By default it gives up a connection that takes two seconds.
 */

const url = `ws://${location.host}/v1/connect?user=alice&room=lobby`;
const socket = new ReconnectingWebSocket(url, null, { timeoutInterval: 120_000 });

socket.onopen = () => socket.send("heartbeat");
socket.onmessage = ({ data }) => console.log({ message: JSON.parse(data) });
socket.onclose = ({ code }) => console.log({ close: code });
