/** What a page of seeds/001 does, with jQuery: a heartbeat, then the list. */

$.post("/heartbeat", { user_id: "alice" }, (status) => {
  console.log(status);
  $.getJSON("/online_users", (list) => console.log(list));
});
