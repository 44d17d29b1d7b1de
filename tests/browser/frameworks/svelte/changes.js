import { mount } from "svelte";

import Changes from "./Changes.svelte";

mount(Changes, { target: document.getElementById("app") });
